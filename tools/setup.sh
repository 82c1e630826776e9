#!/bin/sh
# Make an environment from its lock file: a stack, pinned or latest, the same with what its tests need, or the site's.
# usage: setup.sh pinned | latest | pinned-tests | latest-tests | site
set -eu
cd "$(dirname "$0")/.."
stack=$1
env=.course/$stack
new=$env.$$

fail() {
    echo "$1" >&2
    exit 1
}

case $stack in
pinned*) python=3.11 hint="install Python 3.11, or use the current stack with STACK=latest" ;;
*) python='>=3.11' hint="install Python 3.11 or later" ;;
esac

# A Python that uv brings stays in the checkout.
UV_PYTHON_INSTALL_DIR=$PWD/.course/python
export UV_PYTHON_INSTALL_DIR

echo "Setting up $env."
sh tools/uv.sh --version >/dev/null
# Built aside and moved when whole: what stands in its place always runs. What killed set-ups left goes.
for old in .course/*.[0-9]*; do
    kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old"
done
trap 'rm -rf "$new"' EXIT
trap 'exit 130' HUP INT TERM
sh tools/uv.sh venv --quiet --quiet --no-project --relocatable --python "$python" $new ||
    fail "There is no Python $python here and none could be downloaded: $hint."
sh tools/uv.sh pip sync --quiet --require-hashes --python $new tools/locks/$stack.txt ||
    fail "The packages could not be installed: with a network, type the command again."
case $stack in pinned*) $new/bin/python tools/fix_billiard.py ;; esac
# What a worker imports is compiled by two processes, which its first start would do alone; the suites start a hundred
# processes, and take all of theirs.
lib=$(echo $new/lib/*/site-packages)
case $stack in
*-tests) $new/bin/python -m compileall -q -j 0 $lib ;;
*) { echo $lib/[a-k]* && echo $lib/[l-z]*; } | xargs -P 2 -L 1 $new/bin/python -m compileall -q -x '/(setuptools|valkey|wcwidth)/' ;;
esac >/dev/null || true
touch $new/installed
$new/bin/python tools/put_in_place.py $new $env
