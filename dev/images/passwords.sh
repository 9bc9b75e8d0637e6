#!/bin/bash
# Write the variables of compose.yaml to .env: a random password for each user of the broker and each
# role of the databases, a key for the gateway's tokens, the broker's users with their permissions,
# and a project name, so that each checkout has its own containers and volumes.
#
#   passwords.sh [FILE]    .env by default
#
# Existing values stay, except the permissions. Run it again after an upgrade.
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; } # BYTES

file=${1:-.env}
template=dev/images/definitions.json

umask 077
project=shop-$(random_hex 3)
! grep -qs '^POSTGRES_PASSWORD=' "$file" || project=shop # the name of an earlier version's volumes
touch "$file"
chmod 600 "$file"
grep -q '^COMPOSE_PROJECT_NAME=' "$file" || echo "COMPOSE_PROJECT_NAME=$project" >>"$file"

needed=$(grep -oh '\${[A-Z_]*_\(PASSWORD\|SECRET\)' compose.yaml "$template" | tr -d '${' | sort -u)
for name in $needed; do
  grep -q "^$name=" "$file" || echo "$name=$(random_hex 24)" >>"$file"
done

definitions=$(tr -d '\n' <"$template")
while IFS='=' read -r name password; do
  definitions=${definitions//"\${$name}"/$password}
done < <(grep '_AMQP_PASSWORD=' "$file")

grep -v '^RABBITMQ_DEFINITIONS=' "$file" >"$file.new"
echo "RABBITMQ_DEFINITIONS='$definitions'" >>"$file.new"
mv "$file.new" "$file"
