# shellcheck shell=bash disable=SC2034
# What backup.sh and restore.sh share; sourced by them.

fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# setting NAME: from the environment; without any of the two there, from the file of the services.
setting() {
  local file=${LENS_ENV_FILE:-/etc/lens/lens.env} value
  if [ -n "${LENS_DATABASE_URL:-}${LENS_DAGSTER_URL:-}" ] || [ ! -e "$file" ]; then
    printf '%s' "${!1:-}"
    return
  fi
  [ -r "$file" ] || fail "may not read $file: run it as root, or set LENS_DATABASE_URL"
  # As systemd reads it: neither blanks around a value nor its quotes are part of it.
  value=$(sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$file" | tail -n 1)
  value=${value%"${value##*[![:space:]]}"}
  if [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]]; then
    value=${BASH_REMATCH[1]}
  fi
  printf '%s' "$value"
}

# Set `database` and `dagster` from the settings. libpq knows no drivers: +psycopg2 is dropped.
find_databases() {
  database=$(setting LENS_DATABASE_URL)
  [ -n "$database" ] || fail 'LENS_DATABASE_URL is not set'
  database=${database/#postgresql+psycopg2:/postgresql:}
  dagster=$(setting LENS_DAGSTER_URL)
  if [ -z "$dagster" ]; then
    [[ $database =~ ^([a-z]+://[^/?#]*)(/[^?#]*)?(.*)$ ]] || fail 'LENS_DATABASE_URL is no URL'
    dagster=${BASH_REMATCH[1]}/dagster${BASH_REMATCH[3]}
  fi
  dagster=${dagster/#postgresql+psycopg2:/postgresql:}
}

# require PROGRAM …: of PostgreSQL's client.
require() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || fail "$program is missing: apt install postgresql-client"
  done
}

# at URL PROGRAM …: run it on that database. The password goes by the environment: everybody on the
# machine sees a program's arguments.
at() {
  local url=$1 password=
  shift
  if [[ $url =~ ^([a-z]+://[^:@/]*):([^@/]*)(@.*)$ ]]; then
    url=${BASH_REMATCH[1]}${BASH_REMATCH[3]}
    password=${BASH_REMATCH[2]//\\/\\\\}
    password=$(printf '%b' "${password//%/\\x}")
    PGPASSWORD=$password "$@" --dbname "$url"
  else
    "$@" --dbname "$url"
  fi
}
