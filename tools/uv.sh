#!/bin/sh
# Run uv: the one on PATH if it is new enough, else our own in .course/uv, which the first use
# installs.
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

# Print the path of python3, or an empty line if it has no pip. The path is the interpreter's: on
# PATH may be the script of a version manager, which takes a tenth of a second at each call.
find_pip='import sys
from importlib.util import find_spec
print(sys.executable if find_spec("pip") else "")'

install_uv() {
    python=$(python3 -c "$find_pip" 2>/dev/null) ||
        fail "Python is missing: install python3 with its venv module, or uv, and repeat this."
    mkdir -p .course 2>/dev/null && [ -w .course ] ||
        fail "This folder cannot be written to: give yourself permission for $PWD, and repeat this."
    echo "Downloading uv, which installs the packages." >&2
    # Built aside and moved when whole, so that an interrupted set-up leaves nothing half done.
    new=$own.$$
    trap 'rm -rf "$new"' EXIT
    trap 'exit 130' HUP INT TERM
    # pip warns root about packages of the system, and this folder isn't the system's.
    export PIP_ROOT_USER_ACTION=ignore
    if [ -z "$python" ]; then
        # Debian's Python has pip only in a virtual environment, which takes longer to make than uv
        # to install.
        python3 -c 'import ensurepip, venv' 2>/dev/null ||
            fail "Python's venv module is missing: install it (apt install python3-venv), or uv."
        python3 -m venv "$new/env"
        python=$new/env/bin/python
    fi
    # uv is a program, the same for every Python: with these options, pip compares its thousands of
    # files with few tags. Its progress is shown in a terminal.
    verbosity=--quiet
    [ ! -t 2 ] || verbosity=--progress-bar=on
    "$python" -m pip install $verbosity --disable-pip-version-check --no-compile --no-deps \
        --only-binary :all: --implementation py --python-version 3 --ignore-requires-python \
        --target "$new" --require-hashes -r tools/locks/uv.txt >&2 ||
        fail "uv could not be downloaded: with a network, type the command again."
    # Another set-up may have been quicker: then its uv stays, and this rename fails.
    "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$new" $own 2>/dev/null ||
        rm -rf "$new"
    # What killed set-ups left.
    for old in $own.[0-9]*; do
        kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old"
    done
}

[ -x $own/bin/uv ] || install_uv
exec $own/bin/uv "$@"
