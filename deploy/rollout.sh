#!/usr/bin/env bash
# Run another image on this host with containers: deploy/rollout.sh IMAGE | --back
#
# --back         the image that ran before
# COMPOSE_FILE   compose.worker.yaml on a worker host
#
# One role after the other, while the others work. If one does not become healthy, it and those before
# it go back. An image for which `lens migrate --check` has work is refused: README.md, "Upgrading".
set -euo pipefail
cd "$(dirname "$0")"

fail() {
  echo "rollout.sh: $*" >&2
  exit 2
}
value() {
  sed -nE "s/^$1=[\"']?([^\"'[:space:]]+).*/\1/p" .env | tail -n 1
}
restart() { # IMAGE ROLE
  IMAGE=$1 docker compose up --detach --no-deps --force-recreate --wait --wait-timeout 300 "$2"
}

[ $# -eq 1 ] || fail 'give an image, or --back'
[ -f .env ] || fail "there is no .env: this host was not set up"
running=$(value IMAGE)
[ -n "$running" ] || fail '.env names no IMAGE, so there is none to go back to'
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
  fail "$image needs \`lens migrate\`, or cannot ask: see \"Upgrading\" in README.md"
for role in "${roles[@]}"; do
  restart "$image" "$role" && continue
  lost=
  for other in "${roles[@]}"; do
    restart "$running" "$other" || lost+=" $other"
    [ "$other" != "$role" ] || break
  done
  fail "$role of $image does not run: back to $running${lost:+, but these do not run again:$lost}"
done
if [ "$image" != "$running" ]; then
  sed -i -e '/^PREVIOUS_IMAGE=/d' -e "s|^IMAGE=.*|IMAGE=$image\nPREVIOUS_IMAGE=$running|" .env
fi
echo "$image runs; before: $running"
