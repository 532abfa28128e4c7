#!/usr/bin/env bash
# Restore a backup on a server made for that alone, and count: deploy/check-backup.sh DIRECTORY
#
# DIRECTORY   one that backup.sh made; or the one that holds them: then the newest of the last 26 hours
# SCRATCH     where the server has its files, by default /var/tmp: as much room as the databases take
#
# The server has no port, only a socket that its user alone may use, and is gone at the end. Not for
# root, as whom PostgreSQL does not run.
set -euo pipefail
umask 077

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/databases.sh
source "$here/databases.sh"

[ $# -eq 1 ] || fail 'give a backup, or the directory that holds them'
[ "$(id -u)" != 0 ] || fail 'root cannot run PostgreSQL: runuser -u lens -- deploy/check-backup.sh …'
backup=$1
if [ ! -f "$backup/dagster.dump" ]; then
  backup=$(find "$1" -mindepth 2 -maxdepth 2 -path '*/20*/dagster.dump' -not -path '*.partial/*' \
    -mmin -1560 -printf '%T@ %h\n' | sort --numeric-sort | tail -n 1 | cut --delimiter ' ' --fields 2-)
  [ -n "$backup" ] || fail "$1 has no backup of the last 26 hours"
fi
# Debian has the server's programs out of the way, by version.
servers=
for directory in /usr/lib/postgresql/*/bin; do
  servers=$directory:$servers
done
PATH=$PATH:$servers
command -v initdb >/dev/null || fail 'initdb is missing: apt install postgresql'
require pg_ctl psql

scratch=$(mktemp -d "${SCRATCH:-/var/tmp}/lens-check.XXXXXX")
clean() {
  pg_ctl --pgdata "$scratch/data" --mode immediate stop >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap clean EXIT
initdb --pgdata "$scratch/data" --username lens --auth trust --encoding UTF8 --no-locale --no-sync \
  >/dev/null
pg_ctl --pgdata "$scratch/data" --log "$scratch/log" --wait --options \
  "-k '$scratch' -c listen_addresses='' -c fsync=off -c max_connections=10" start >/dev/null ||
  fail "$(tail -n 3 "$scratch/log")"

ask() {
  at "postgresql://lens@/$1?host=$scratch" psql --no-psqlrc --set ON_ERROR_STOP=1 --quiet \
    --tuples-only --no-align --command "$2"
}
ask postgres 'CREATE DATABASE application TEMPLATE template0'
ask postgres 'CREATE DATABASE dagster TEMPLATE template0'
LENS_DATABASE_URL="postgresql://lens@/application?host=$scratch" \
  LENS_DAGSTER_URL="postgresql://lens@/dagster?host=$scratch" \
  "$here/restore.sh" "$backup" >/dev/null
found=$(ask dagster "SELECT count(*) || ' events, the last one of '
  || coalesce(to_char(max(timestamp), 'YYYY-MM-DD HH24:MI') || ' UTC', 'no time') FROM event_logs")
if [ -f "$backup/application.dump" ]; then
  found="$found; $(ask application 'SELECT count(*) FROM generations') generations"
fi
echo "$backup: restored whole: $found"
