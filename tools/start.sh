#!/bin/sh
# Copy the app of the chapter before into a new folder, as the place to begin a chapter.
# usage: start.sh CHAPTER FOLDER
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

number=${1%%-*}
folder=$2
[ -n "$folder" ] || fail "Name the folder: make chapter-$number-start DIR=~/my-attempt"
# Not every shell expands the ~ in DIR=~/my-attempt.
case $folder in "~/"*) folder=$HOME/${folder#"~/"} ;; esac
[ -z "$(ls -A "$folder" 2>/dev/null)" ] || fail "$folder is not empty: name a new folder."
mkdir -p "$folder" || fail "$folder cannot be made: name another folder."
folder=$(cd "$folder" && pwd)

cd "$(dirname "$0")/.."
before=$(ls chapters | grep "^$((number - 1))-") || {
    echo "Chapter $number begins with an empty folder: $folder"
    exit
}
(cd "chapters/$before" && find . -name __pycache__ -prune -o -name README.md -prune -o -type f -print) |
    while read -r file; do
        mkdir -p "$folder/$(dirname "$file")"
        cp "chapters/$before/$file" "$folder/$file"
    done
echo "The app of $before is in $folder; make chapter-$number-test DIR=\"$folder\" grades it."
