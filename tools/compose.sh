#!/bin/sh
# Run docker compose, version 2 or 1.
# usage: compose.sh COMMAND [ARGUMENT...]
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

docker version >/dev/null 2>&1 || fail "No Docker engine answers: start Docker."
if docker compose version >/dev/null 2>&1; then
    exec docker compose "$@"
fi
command -v docker-compose >/dev/null || fail "Docker has no compose command: install its compose plugin."
exec docker-compose "$@"
