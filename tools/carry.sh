#!/bin/sh
# Bring a chapter's uncommitted change into each chapter after it. Git merges it, so a renamed file is followed. Lessons
# stay as they are, and so does a file that the change does not fit. Nothing is committed, and .git stays as it is.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "$1" >&2 && exit 1; }

set -- $(ls chapters | grep '^[1-9][0-9]*-[a-z0-9-]*$' | sort -n | awk -F- -v from="${1-}" '$1 == from { on = 1 } on')
[ $# -gt 1 ] || fail "Name the chapter that you changed, which can't be the last one: for example, make carry FROM=2."
main=$(git rev-parse HEAD) objects=$(cd "$(git rev-parse --git-path objects)" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
# A repository of its own, with no settings of the user's: it reads the objects of this one, and goes with all that it wrote.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_DIR="$folder/git" GIT_WORK_TREE="$folder/merged"
git init --quiet "$folder/merged"
echo "$objects" >"$GIT_DIR/objects/info/alternates"
git config user.name carry && git config user.email carry@localhost
git config core.quotePath false && git config core.excludesFile "$PWD/.gitignore"

# A chapter as a commit without its lesson: as it is in HEAD; and as it is now, which leaves $folder/index behind.
committed() {
    git cat-file -e "$main:chapters/$1" 2>/dev/null || fail "chapters/$1 is not committed yet, so its change can't be carried: commit it first."
    git commit-tree -m "$1" "$(git ls-tree "$main:chapters/$1" | sed '/[[:blank:]]README\.md$/d' | git mktree)"
}
now() (
    rm -f "$folder/index"
    export GIT_WORK_TREE="chapters/$1" GIT_INDEX_FILE="$folder/index"
    git add --all -- . ':(exclude)README.md'
    git commit-tree -m "$1" -p "$2" "$(git write-tree)"
)

while [ $# -gt 1 ]; do
    base=$(committed "$1")
    theirs=$(now "$1" "$base")
    ours=$(now "$2" "$base")
    git diff --quiet "$base" "$theirs" && echo "nothing chapters/$1: it has no uncommitted change" && break
    git reset --quiet --hard "$ours"
    git merge --quiet --no-edit -X find-renames=40% "$theirs" >/dev/null || [ $? -eq 1 ]
    # What does not fit is ours again: the versions of the others go out first, then ours comes in.
    git ls-files --unmerged >"$folder/conflicts"
    sed -e 's/^[0-9]* \([0-9a-f]*\) [13]/0 \1 0/' -e 's/^\([0-9]* [0-9a-f]*\) 2/\1 0/' "$folder/conflicts" | sort | git update-index --index-info
    merged=$(git write-tree)
    git diff --no-renames --name-status "$ours" "$merged" |
        sed -e "s|^A.|made    chapters/$2/|" -e "s|^D.|removed chapters/$2/|" -e "s|^[MT].|changed chapters/$2/|"
    cut -f 2 "$folder/conflicts" | sort -u | sed "s|.*|left    chapters/$2/&: the change of $1 does not fit, so make it by hand|"
    GIT_WORK_TREE=chapters/$2 GIT_INDEX_FILE=$folder/index git read-tree -m -u "$ours" "$merged"
    shift
done
