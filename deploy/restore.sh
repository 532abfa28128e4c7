#!/usr/bin/env bash
# Restore what backup.sh wrote into empty databases: deploy/restore.sh DIRECTORY
#
# LENS_DATABASE_URL, LENS_DAGSTER_URL   where to, as for backup.sh; both databases are there, and empty
#
# Nothing else may use them meanwhile. Each is restored whole or not at all.
set -euo pipefail

# shellcheck source=deploy/databases.sh
source "$(dirname "$0")/databases.sh"

[ $# -eq 1 ] || fail 'give the directory that backup.sh made'
source=$1
[ -f "$source/dagster.dump" ] || fail "$source has no dagster.dump: it is no backup"
find_databases
require pg_restore psql

require_empty() {
  local tables
  tables=$(at "$2" psql --no-psqlrc --quiet --tuples-only --no-align --command \
    "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
  [ "$tables" = 0 ] || fail "$1 names a database with $tables tables: give an empty one"
}
restore() {
  at "$2" pg_restore --no-owner --no-privileges --exit-on-error --single-transaction \
    "$source/$1.dump"
  # Without figures on its tables the server reads them whole at first.
  # Without a line for each of its own tables that it lets only its superuser look at.
  at "$2" psql --no-psqlrc --quiet --command 'SET client_min_messages = error' --command 'ANALYZE'
}

require_empty LENS_DAGSTER_URL "$dagster"
[ ! -f "$source/application.dump" ] || require_empty LENS_DATABASE_URL "$database"
if [ -f "$source/application.dump" ]; then
  restore application "$database"
fi
restore dagster "$dagster"
echo "restored from $source: before anything starts, LENS_ENABLED=false and \`lens migrate\`"
