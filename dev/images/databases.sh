#!/bin/bash
# Create the roles and databases of compose.yaml, at each start. A database belongs to the role that
# migrates it. One other role may connect to it, that of the service. Missing roles and databases are
# created, and all roles get their current passwords. The superuser's password changes last, because
# each psql needs the old one to connect.
set -euo pipefail

for name in users billing orders notifications; do
  password=${name^^}_DB_PASSWORD owner_password=${name^^}_DB_OWNER_PASSWORD
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" <<SQL
SELECT format('CREATE ROLE %I LOGIN', role) FROM unnest('{${name}, ${name}_owner}'::name[]) AS role
  WHERE role NOT IN (SELECT rolname FROM pg_roles) \gexec
ALTER ROLE ${name} PASSWORD '${!password}' CONNECTION LIMIT 130;
ALTER ROLE ${name}_owner PASSWORD '${!owner_password}' CONNECTION LIMIT 10;
SELECT 'CREATE DATABASE ${name} OWNER ${name}_owner
  TEMPLATE template0 ENCODING ''UTF8'' LOCALE_PROVIDER libc LOCALE ''C'''
  WHERE '${name}' NOT IN (SELECT datname FROM pg_database) \gexec
REVOKE ALL ON DATABASE ${name} FROM PUBLIC;
GRANT CONNECT ON DATABASE ${name} TO ${name};
SQL
done
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" <<SQL
ALTER ROLE CURRENT_USER PASSWORD '${POSTGRES_PASSWORD}';
SQL
