#!/bin/sh
# Bring the uncommitted change of a chapter into every chapter after it: sh tools/carry.sh 2
# Git merges it, so a file that a later chapter renamed is followed. Each chapter's own lesson and
# experiments.py are left alone, and so is a file that the change does not fit. Nothing is
# committed, and .git is not touched.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

set -- $(ls chapters | grep '^[1-9][0-9]*-[a-z0-9-]*$' | sort -n |
    awk -F- -v from="${1-}" '$1 == from { found = 1 } found')
[ $# -gt 1 ] ||
    fail "Name the chapter that you changed, but not the last one, as in: make carry FROM=2"
# The merges happen in a repository that is thrown away, without the user's settings.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
merge_git() {
    GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git -C "$folder/merge" \
        -c core.quotePath=false -c user.name=carry -c user.email=carry@localhost "$@"
}

# Replace the files of the repository by those of the folder $1, and commit them as the branch $2.
commit() {
    find "$folder/merge" -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {} +
    rm -f "$1/README.md" "$1/experiments.py"
    cp -R "$1/." "$folder/merge"
    merge_git checkout --quiet -b "$2"
    merge_git add --all --force
    merge_git commit --quiet --allow-empty --message "$2"
}

# Copy the files of the chapter $1 that git has or would add into the folder $2.
copy_files() {
    mkdir "$2"
    git -C "chapters/$1" -c core.quotePath=false ls-files --cached --others --exclude-standard |
        while read -r file; do
            if [ -f "chapters/$1/$file" ]; then
                mkdir -p "$(dirname "$2/$file")"
                cp -p "chapters/$1/$file" "$2/$file"
            fi
        done
}

# Carry the change of the chapter $1 into the chapter $2.
carry() {
    rm -rf "$folder"/*
    git cat-file -e "HEAD:chapters/$1" 2>/dev/null ||
        fail "chapters/$1 is not committed, so its change is not known: commit it first."
    mkdir "$folder/committed" "$folder/merge"
    git archive "HEAD:chapters/$1" | tar -xf - -C "$folder/committed"
    copy_files "$1" "$folder/changed"
    copy_files "$2" "$folder/next"
    merge_git init --quiet
    commit "$folder/committed" committed
    commit "$folder/changed" changed
    merge_git checkout --quiet committed
    commit "$folder/next" next
    if merge_git diff --quiet committed changed; then
        echo "nothing chapters/$1: it has no uncommitted change"
        exit
    fi
    # The status is 1 if something does not fit; what does fit is in the index.
    merge_git merge --quiet --no-ff --no-commit -X find-renames=40% changed \
        >"$folder/log" 2>&1 || [ $? -eq 1 ] || fail "$(cat "$folder/log")"
    merge_git diff --cached --no-renames --diff-filter=u --name-status HEAD |
        while read -r letter file; do
            path=chapters/$2/$file
            if [ "$letter" = D ]; then
                rm "$path"
                echo "removed $path"
                continue
            fi
            word=changed
            [ "$letter" != A ] || word="made   "
            mkdir -p "$(dirname "$path")"
            cp -p "$folder/merge/$file" "$path"
            echo "$word $path"
        done
    merge_git diff --name-only --diff-filter=U |
        sed "s|.*|left    chapters/$2/&: the change of $1 does not fit, so make it by hand|"
}

while [ $# -gt 1 ]; do
    carry "$1" "$2"
    shift
done
