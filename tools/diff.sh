#!/bin/sh
# Show what changed from the chapter before to this one, code first, renames recognized.
# usage: diff.sh CHAPTER
set -eu
cd "$(dirname "$0")/.."
before=$(ls chapters | grep "^$((${1%%-*} - 1))-") || {
    echo "Chapter $1 is the first: there is nothing before it."
    exit
}
# The trees come from an index of our own, so that uncommitted changes show and git's index stays as it is.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
GIT_INDEX_FILE=$folder/index
export GIT_INDEX_FILE
git add chapters
tree=$(git write-tree)
git diff -M -O tools/code-first "$tree:chapters/$before" "$tree:chapters/$1"
