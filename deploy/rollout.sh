#!/usr/bin/env bash
# Run another image on this host with containers: deploy/rollout.sh IMAGE | --back
#
# --back         the image that ran before
# COMPOSE_FILE   compose.worker.yaml on a worker host
#
# One role after the other, while the others work. If one does not become healthy, all go back. An
# image that has other tables is refused: README.md, "Upgrading, and going back".
set -euo pipefail
cd "$(dirname "$0")"

fail() {
  echo "rollout.sh: $*" >&2
  exit 2
}
value() {
  sed -n "s/^$1=//p" .env | tail -n 1
}
each_role() { # IMAGE
  local role
  for role in "${roles[@]}"; do
    IMAGE=$1 docker compose up --detach --no-deps --force-recreate --wait --wait-timeout 300 "$role" ||
      return
  done
}

[ $# -eq 1 ] || fail 'give an image, or --back'
[ -f .env ] || fail "there is no .env: this host was not set up"
running=$(value IMAGE)
image=$1
if [ "$image" = --back ]; then
  image=$(value PREVIOUS_IMAGE)
  [ -n "$image" ] || fail 'no image ran here before'
fi
mapfile -t roles < <(
  for role in code daemon worker-previews worker-masters dagster api; do
    docker compose config --services | grep --line-regexp "$role" || true
  done
)
[ "${#roles[@]}" -gt 0 ] || fail 'compose knows no role: see COMPOSE_FILE'

docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image"
IMAGE=$image docker compose run --rm --no-deps "${roles[0]}" migrate --check ||
  fail "$image has other tables than $running, or cannot ask: see \"Upgrading\" in README.md"
if ! each_role "$image"; then
  each_role "$running" || true
  fail "$image does not run: back to $running"
fi
if [ "$image" != "$running" ]; then
  sed -i -e "s|^IMAGE=.*|IMAGE=$image|" -e '/^PREVIOUS_IMAGE=/d' .env
  echo "PREVIOUS_IMAGE=$running" >>.env
fi
echo "$image runs; before: $running"
