#!/bin/sh
# Write the lock files anew from the requirements files: every package, with its version and hashes.
set -eu
cd "$(dirname "$0")/.."

# usage: lock REQUIREMENTS NAME [OPTION...]
lock() {
    requirements=$1 name=$2
    shift 2
    sh tools/uv.sh pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@" "$requirements" --output-file "tools/locks/$name.txt"
}

# What a worker needs, and that and what the tests need, in the same versions.
stack() {
    lock "$1" "$2-tests"
    sed '/^# The tests/,$d' "$1" | lock - "$2" --constraint "tools/locks/$2-tests.txt"
}

stack requirements.txt pinned
stack requirements-latest.txt latest
lock tools/site/requirements.txt site
