#!/bin/sh
# Install what a lock file names: pinned, pinned-web and pinned-test into .venv, latest and its like into .venv-latest, site into
# .venv-site. What has one lock file for both stacks, browser, is named with the stack: pinned-browser.
# Does nothing where that is done; what an interrupted set-up left undone, the next one finishes.
# usage: setup.sh LOCK
set -eu
cd "$(dirname "$0")/.."
lock=tools/locks/$1.txt
[ -e "$lock" ] || lock=tools/locks/${1#*-}.txt
env=.venv-${1%%-*}
python='>=3.11'
hint="install Python 3.11 or later"
if [ $env = .venv-pinned ]; then
    env=.venv
    python=3.11
    hint="install Python 3.11, or use the current stack with STACK=latest"
fi
mark=$env/installed-$1
# In a checkout that was moved, programs name a Python where it was.
[ ! -e $env/place ] || [ -d "$(cat $env/place)" ] || rm -rf $env
# A Python that was upgraded or uninstalled leaves a link that leads nowhere.
if [ -x $env/bin/python ] && [ "$(cat "$mark" 2>/dev/null)" = "$(cksum "$lock")" ]; then
    exit
fi

fail() {
    echo "$1" >&2
    exit 1
}

# A Python that uv brings stays in the checkout. Copies, not links: an edit in a package must not reach uv's cache.
export UV_PYTHON_INSTALL_DIR="$PWD/.course/python" UV_LINK_MODE=copy
echo "Setting up $env."
sh tools/uv.sh --version >/dev/null || exit 1
message=$(sh tools/uv.sh venv --quiet --no-project --allow-existing --python "$python" $env 2>&1) || case $message in
*interpreter* | *download*) fail "There is no Python $python here and none could be downloaded: $hint." ;;
*) fail "The environment $env cannot be made ($(echo "$message" | tail -n 1)): fix that, and type the command again." ;;
esac
sh tools/uv.sh pip install --quiet --require-hashes --no-deps --python $env --requirement "$lock" ||
    fail "The packages could not be installed: with a network, type the command again."
[ $env != .venv ] || $env/bin/python tools/fix_billiard.py
# What a worker imports is compiled by two processes, which its first start would do alone. Tests start many: all is compiled.
case $1 in *-test) rare=^$ ;; *) rare='/(setuptools|valkey|wcwidth)/' ;; esac
{ echo $env/lib/*/site-packages/[_a-k]* && echo $env/lib/*/site-packages/[l-z]*; } |
    xargs -P 2 -L 1 $env/bin/python -m compileall -q -x "$rare" >/dev/null || true
(cd $env/bin && pwd -P) >$env/place
cksum "$lock" >"$mark"
