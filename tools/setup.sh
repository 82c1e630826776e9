#!/bin/sh
# Install the packages of a lock file into the environment of its stack: pinned, pinned-web and
# pinned-test into .venv, latest and its like into .venv-latest, site into .venv-site,
# manifests into .venv-manifests. The lock browser is the same for each stack: pinned-browser.
# Does nothing if that is done, and finishes what an interrupted set-up left undone.
# usage: setup.sh LOCK
set -eu
cd "$(dirname "$0")/.."
set=$1
stack=${set%%-*}
case $stack in
pinned)
    env=.venv
    python=3.11
    hint="install Python 3.11, or use the current stack with STACK=latest"
    ;;
*)
    env=.venv-$stack
    python='>=3.11'
    hint="install Python 3.11 or later"
    ;;
esac
# A smaller set is never installed over a larger one, which contains it.
for larger in "$stack-web" "$stack-test"; do
    case $set in
    "$stack" | "$stack-web") [ ! -e "$env/installed-$larger" ] || set=$larger ;;
    esac
done
lock=tools/locks/$set.txt
[ -e "$lock" ] || lock=tools/locks/${set#*-}.txt
port_module=course/follow_redis_port.py
mark=$env/installed-$set
# In a checkout that was moved, programs name a Python where it was.
if [ -e $env/place ] && [ ! -d "$(cat $env/place)" ]; then
    rm -rf $env
fi
# A Python that was upgraded or uninstalled leaves a link that leads nowhere.
installed=$(cat "$mark" 2>/dev/null) || installed=
if [ -x $env/bin/python ] && [ "$installed" = "$(cksum "$lock" $port_module)" ]; then
    exit
fi

fail() {
    echo "$1" >&2
    exit 1
}

case $set in
*-web) purpose="a worker, Flower and the web page" ;;
*-test) purpose="checks and tests, with Flower and Django" ;;
*-browser) purpose="tests in a browser" ;;
site) purpose="building the pages" ;;
manifests) purpose="tests of chapter 14's manifests" ;;
*) purpose="a worker and a prompt" ;;
esac
echo "Setting up $env, for $purpose."
# A Python that uv brings stays in the checkout. Copies, not links: an edit in a package must not
# reach uv's cache.
export UV_PYTHON_INSTALL_DIR="$PWD/.course/python" UV_LINK_MODE=copy
sh tools/uv.sh --version >/dev/null || exit 1
message=$(sh tools/uv.sh venv --quiet --no-project --allow-existing --python "$python" $env 2>&1) ||
    case $message in
    *interpreter* | *download*)
        fail "There is no Python $python here and none could be downloaded: $hint."
        ;;
    *)
        reason=$(echo "$message" | tail -n 1)
        fail "The environment $env cannot be made ($reason): fix that, and type the command again."
        ;;
    esac
# uv shows its progress in a terminal, and lists each package.
sh tools/uv.sh pip install --require-hashes --no-deps --python $env --requirement "$lock" ||
    fail "The packages could not be installed, for the reason above: mend it, often the network or \
its certificates, and type the command again."
if [ $stack = pinned ]; then
    $env/bin/python tools/fix_billiard.py
fi
packages=$(echo $env/lib/*/site-packages)
cp $port_module "$packages/"
echo "import follow_redis_port" >"$packages/follow_redis_port.pth"
# Two processes compile what a worker imports, which its first start would do alone. Tests start
# many: for them, everything is compiled.
case $set in
*-test) rare=^$ ;;
*) rare='/(setuptools|valkey|wcwidth)/' ;;
esac
# A dot is shown for each four packages.
printf "Compiling them, for quicker starts: "
compile='$0 -m compileall -q -x "$@" >/dev/null || true; printf .'
printf '%s\0' "$packages"/* | xargs -0 -P 2 -n 4 sh -c "$compile" $env/bin/python "$rare" || true
echo
(cd $env/bin && pwd -P) >$env/place
cksum "$lock" $port_module >"$mark"
