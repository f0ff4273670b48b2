#!/bin/sh
# Run once by each PostgreSQL container when its data folder is made: the application's role.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$APP_PASSWORD" -U postgres -d app <<'SQL'
create role app login password :'password';
alter database app owner to app;
SQL
