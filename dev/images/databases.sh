#!/bin/bash
# The roles and databases of compose.yaml, made once by the image of PostgreSQL: each database belongs to
# the role that migrates it, and lets in one other, which the service uses.
set -euo pipefail

for name in users billing orders notifications; do
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" <<SQL
CREATE ROLE ${name} LOGIN PASSWORD '${name}';
CREATE ROLE ${name}_owner LOGIN PASSWORD '${name}_owner';
CREATE DATABASE ${name} OWNER ${name}_owner
  TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C';
REVOKE ALL ON DATABASE ${name} FROM PUBLIC;
GRANT CONNECT ON DATABASE ${name} TO ${name};
SQL
done
