#!/bin/sh
# Run uv: the one on PATH where it is new enough, else our own in .course/uv, which the first use installs.
set -eu
cd "$(dirname "$0")/.."
own=.course/uv

fail() {
    echo "$1" >&2
    exit 1
}

# An old uv warns that it does not understand pyproject.toml, or refuses its required-version.
if warning=$(uv cache dir 2>&1 >/dev/null) && [ -z "$warning" ]; then
    exec uv "$@"
fi
if [ ! -x $own/bin/uv ]; then
    # The interpreter itself: on PATH may be a version manager's script, which takes a tenth of a second at each call.
    python=$(python3 -c 'import sys; from importlib.util import find_spec; print(sys.executable if find_spec("pip") else "")' 2>/dev/null) ||
        fail "Python is missing: install python3 with its venv module, or uv, and type the command again."
    mkdir -p .course 2>/dev/null && [ -w .course ] ||
        fail "This folder cannot be written to: give yourself write permission for $PWD, and type the command again."
    # Built aside and moved when whole, so that an interrupted set-up leaves nothing half done.
    new=$own.$$
    trap 'rm -rf "$new"' EXIT
    trap 'exit 130' HUP INT TERM
    export PIP_ROOT_USER_ACTION=ignore # root is at home in this folder
    if [ -z "$python" ]; then
        # Debian's Python has no pip but in a virtual environment, which takes longer to make than uv to install.
        python3 -c 'import ensurepip, venv' 2>/dev/null ||
            fail "Python's venv module is missing: install it (on Debian and Ubuntu: apt install python3-venv), or uv, and type the command again."
        python3 -m venv $new/env
        python=$new/env/bin/python
    fi
    # uv is a program, the same for every Python: told so, pip compares its thousands of files with few tags.
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --only-binary :all: \
        --implementation py --python-version 3 --ignore-requires-python --target $new --require-hashes -r tools/locks/uv.txt ||
        fail "uv could not be downloaded: with a network, type the command again."
    # Another set-up may have been quicker: then its uv stands, and this rename fails.
    "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' $new $own 2>/dev/null || rm -rf $new
    # What killed set-ups left.
    for old in $own.[0-9]*; do
        kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old"
    done
fi
exec $own/bin/uv "$@"
