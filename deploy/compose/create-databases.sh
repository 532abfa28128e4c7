#!/bin/sh
# At the first start of PostgreSQL's image: the role of the pipeline, which is no superuser (those
# read the server's files and run its programs), and its two databases.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$LENS_DB_PASSWORD" \
  --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
CREATE ROLE lens LOGIN PASSWORD :'password';
CREATE DATABASE lens OWNER lens;
CREATE DATABASE dagster OWNER lens;
SQL
