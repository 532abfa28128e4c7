#!/usr/bin/env bash
# Build the image: deploy/build-image.sh [NAME[:TAG]] [options of the builder …]
#
# BASE=…      another base image than the one pinned in the Containerfile; it must be Debian 12
# BUILDER=…   buildah, podman or docker; by default the first of them that is there
set -euo pipefail
cd "$(dirname "$0")/.."

image=${1:-lens-pipeline}
[ $# -eq 0 ] || shift
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
case $image in
  *:*) ;;
  *) image=$image:$version ;;
esac

builder=${BUILDER:-}
for candidate in buildah podman docker; do
  [ -n "$builder" ] || ! command -v "$candidate" >/dev/null || builder=$candidate
done
if [ -z "$builder" ]; then
  echo 'build-image.sh: needs buildah, podman or docker: install one of them' >&2
  exit 2
fi

# A git checkout says what it is; the same commit gives the same labels and times.
revision=unknown
created=0
if git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
  revision=$(git rev-parse HEAD)
  created=$(git log -1 --format=%ct)
  [ -z "$(git status --porcelain)" ] || revision=$revision-modified
fi

options=(--file deploy/Containerfile --tag "$image"
  --build-arg "VERSION=$version" --build-arg "REVISION=$revision")
[ -z "${BASE:-}" ] || options+=(--build-arg "BASE=$BASE")
case $builder in
  *docker) export SOURCE_DATE_EPOCH=$created ;;
  # Their own format has no health check.
  *) options+=(--format docker --layers --timestamp "$created") ;;
esac

"$builder" build "${options[@]}" "$@" .
echo "$image"
