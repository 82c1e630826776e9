#!/bin/sh
# Make the annotated tags chapter-1, chapter-2, … from what is committed. Each tag's commit has the chapter before
# as its parent, and holds the course's own files with the chapter's app and lesson at the top.
# The same files give the same ids on every machine: author, dates and time zone are fixed.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

name="Celery course"
email="course@localhost"
commit=$(git rev-parse --verify --quiet HEAD) || fail "There is no commit to make tags from: commit first."
git status --porcelain -- chapters | sed 's/^...\(.*\)/Not committed, so left out: \1/'

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The tree of a chapter, made in an index of its own.
tree_of() {
    rm -f "$folder/index"
    git read-tree "$commit"
    git rm -r --cached --quiet README.md 'chapters/[0-9]*'
    git read-tree --prefix= "$commit:chapters/$1"
    # The way to the app that the Makefile knows, so that its commands work in a tag too.
    here=$(printf .. | git hash-object -w --stdin)
    git update-index --add --cacheinfo "120000,$here,chapters/$1"
    git write-tree
}

# The lesson's title, and its text up to the first heading.
message_of() {
    git show "$commit:chapters/$1/README.md" | sed -e '1s/^# //' -e '/^## /,$d'
}

parent=
for chapter in $(git ls-tree --name-only "$commit:chapters" | grep '^[0-9]' | sort -n); do
    number=${chapter%%-*}
    tag=chapter-$number
    date="$((1767225600 + number * 86400)) +0000"
    tree=$(GIT_INDEX_FILE=$folder/index && export GIT_INDEX_FILE && tree_of "$chapter")
    parent=$(message_of "$chapter" | GIT_AUTHOR_NAME=$name GIT_AUTHOR_EMAIL=$email GIT_AUTHOR_DATE=$date \
        GIT_COMMITTER_NAME=$name GIT_COMMITTER_EMAIL=$email GIT_COMMITTER_DATE=$date \
        git -c i18n.commitEncoding=utf-8 commit-tree "$tree" ${parent:+-p "$parent"})
    new=$({
        printf 'object %s\ntype commit\ntag %s\ntagger %s <%s> %s\n\n' "$parent" "$tag" "$name" "$email" "$date"
        message_of "$chapter"
    } | git mktag)
    old=$(git rev-parse --verify --quiet "refs/tags/$tag") || old=
    if [ "$new" = "$old" ]; then
        echo "$tag $new stands"
    elif [ -z "$old" ]; then
        git update-ref "refs/tags/$tag" "$new" ""
        echo "$tag $new made"
    elif git cat-file tag "$old" 2>/dev/null | grep -q "^tagger $name <$email>"; then
        git update-ref "refs/tags/$tag" "$new" "$old"
        echo "$tag $new moved"
    else
        fail "The tag $tag is not ours and stays as it is: rename it, then type make tags again."
    fi
done
