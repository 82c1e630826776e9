#!/bin/sh
# Show what changed from the chapter before to this one, code first, renames recognized.
# usage: diff.sh NUMBER [OPTION OF GIT DIFF...]
set -eu
cd "$(dirname "$0")/.."
here=$(ls chapters | grep "^$1-") || here=
before=$(ls chapters | grep "^$(($1 - 1))-") || before=
if [ -z "$here" ] || [ -z "$before" ]; then
    if [ "$1" = 1 ]; then
        echo "Chapter 1 is the first: there is nothing before it."
    elif [ "$(ls chapters | grep -c '^[0-9]')" -eq 1 ]; then
        echo "This is the tag of one chapter: git diff chapter-$(($1 - 1)) chapter-$1 shows the difference."
    else
        echo "There is no chapter $1: the chapters are $(ls chapters | sort -n | tr '\n' ' ')" >&2
        exit 1
    fi
    exit
fi
# The trees come from an index of our own, so that uncommitted changes show and git's index stays as it is.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
GIT_INDEX_FILE=$folder/index
export GIT_INDEX_FILE
git add chapters
tree=$(git write-tree)
shift
git diff -M -O tools/code-first "$@" "$tree:chapters/$before" "$tree:chapters/$here"
