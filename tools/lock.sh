#!/bin/sh
# Write the lock files anew from the requirements files: every package, with its version and hashes.
set -eu
cd "$(dirname "$0")/.."

lock() {
    sh tools/uv.sh pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$1" --output-file "tools/locks/$2.txt"
}

lock requirements.txt pinned
lock requirements-latest.txt latest
lock tools/site/requirements.txt site
