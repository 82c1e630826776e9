#!/bin/sh
# Run a command in a chapter's folder, with the stack's programs first on PATH.
# usage: STACK=pinned in-chapter.sh CHAPTER COMMAND [ARGUMENT...]
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.course/$STACK/bin:$PATH
export PATH
cd "chapters/$1"
shift
exec "$@"
