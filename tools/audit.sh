#!/bin/sh
# Compare what both stacks install, the tests' packages included, with the public advisories. The tool lives in uv's cache, and not in a stack.
set -eu
cd "$(dirname "$0")/.."

audit() {
    stack=$1
    shift
    # Strict: a package that could not be looked up is no clean one.
    sh tools/uv.sh tool run pip-audit==2.10.1 --strict --disable-pip --no-deps --progress-spinner off \
        --requirement "tools/locks/$stack.txt" "$@"
}

# Known for the pinned stack; SECURITY.md has the reasons.
audit pinned-tests --ignore-vuln PYSEC-2021-858
audit latest-tests
