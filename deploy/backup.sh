#!/usr/bin/env bash
# Dump both databases into a new directory: deploy/backup.sh DIRECTORY
#
# --daily DIRECTORY                    into one named by the time below it; check that by a restore
#                                      (check-backup.sh); then remove those so named that are older
#                                      than KEEP_DAYS (14). What fails the check is kept as `failed`,
#                                      the last one only
# LENS_DATABASE_URL, LENS_DAGSTER_URL   where they are; without the second: `dagster` beside the first.
#                                      Without both: as /etc/lens/lens.env (LENS_ENV_FILE) says
# APPLICATION=no                       only Dagster's, where the site's own backup has the other
#
# May run at any time, also while everything works. Dagster's comes first: what is then younger in
# the application's is asked for again after a restore, while the other way round derivatives of
# rows that the dump lacks would count as left over.
set -euo pipefail
umask 077

# shellcheck source=deploy/databases.sh
source "$(dirname "$0")/databases.sh"

if [ "${1:-}" = --daily ] && [ $# -eq 2 ]; then
  target=$2/$(date --utc +%F-%H%M)
  "$0" "$target"
  if ! "$(dirname "$0")/check-backup.sh" "$target"; then
    rm -rf "$2/failed"
    mv "$target" "$2/failed"
    exit 1
  fi
  find "$2" -mindepth 1 -maxdepth 1 -type d -name '20??-??-??-[0-9][0-9][0-9][0-9]' \
    -mtime "+${KEEP_DAYS:-14}" -exec rm -rf {} +
  exit
fi

[ $# -eq 1 ] || fail 'give one directory, which is made: backup.sh /backup/2026-01-31'
target=$1
find_databases
require pg_dump
[ ! -e "$target" ] || fail "$target is there already: give a new name"

# Under another name until it is whole.
partial=$target.partial
trap 'rm -rf "$partial"' EXIT
rm -rf "$partial"
mkdir -p "$partial"
dump() {
  # The app makes its copies of states anew, and row-level security may hide them from this role.
  at "$2" pg_dump --format=custom --no-owner --no-privileges \
    --exclude-table-data 'lens_*derivatives' --file "$partial/$1.dump"
}
dump dagster "$dagster"
if [ "${APPLICATION:-yes}" != no ]; then
  dump application "$database"
fi
mv "$partial" "$target"
echo "$target: $(du -sh "$target" | cut -f1)"
