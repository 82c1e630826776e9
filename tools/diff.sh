#!/bin/sh
# Show what changed from the chapter before to this one, code first, renames recognized.
# usage: diff.sh CHAPTER
set -eu
cd "$(dirname "$0")/.."
number=${1%%-*}
before=$(ls chapters | grep "^$((number - 1))-") || {
    if [ "$number" -gt 1 ]; then
        # A tag holds one chapter; the one before is another tag.
        echo "The chapter before is not here: git diff chapter-$((number - 1)) chapter-$number shows the difference."
    else
        echo "Chapter $1 is the first: there is nothing before it."
    fi
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
