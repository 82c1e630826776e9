#!/bin/sh
# Make the annotated tags chapter-1, chapter-2, … from what is committed. The commit of a tag holds
# the app of one chapter at its top, the lesson as LESSON.md, and a few files that are the same in
# every tag; its parent is the previous chapter. Author, dates and time zone are fixed, so that the
# same files give the same ids on every machine.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

name="Celery course"
email=course@localhost
main=$(git rev-parse --verify --quiet HEAD) ||
    fail "There is no commit to make tags from: commit first."
git status --porcelain -- \
    chapters .gitattributes .gitignore LICENSE requirements.txt tools/tags.md |
    sed 's/^...\(.*\)/Not committed, so left out: \1/'
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
export GIT_AUTHOR_NAME="$name" GIT_AUTHOR_EMAIL=$email
export GIT_COMMITTER_NAME="$name" GIT_COMMITTER_EMAIL=$email

# Put the committed file $2 at the path $1 of the index.
add() {
    git update-index --add --cacheinfo "100644,$(git rev-parse "$main:$2"),$1"
}

# Print the tree of the chapter $1, which is made in an index of its own.
tree_of() (
    export GIT_INDEX_FILE="$folder/index"
    git read-tree "$main:chapters/$1"
    git update-index --force-remove Makefile # it calls that of the course
    add LESSON.md "chapters/$1/README.md"
    add README.md tools/tags.md
    for file in .gitattributes LICENSE requirements.txt; do
        add "$file" "$file"
    done
    ignored=$({
        git cat-file blob "$main:.gitignore"
        git cat-file blob "$main:chapters/$1/.gitignore" 2>/dev/null || :
    } | git hash-object -w --stdin)
    git update-index --add --cacheinfo "100644,$ignored,.gitignore"
    git write-tree
)

parent=
for chapter in $(git ls-tree --name-only "$main:chapters" |
    grep '^[1-9][0-9]*-[a-z0-9-]*$' | sort -n); do
    number=${chapter%%-*}
    tag=chapter-$number
    date="$((1767225600 + number * 86400)) +0000"
    export GIT_AUTHOR_DATE="$date" GIT_COMMITTER_DATE="$date"
    # The lesson's title, and its text up to the first heading.
    git cat-file blob "$main:chapters/$chapter/README.md" |
        sed -e '1s/^# //' -e '/^## /,$d' >"$folder/message"
    tree=$(tree_of "$chapter")
    parent=$(git -c i18n.commitEncoding=utf-8 commit-tree ${parent:+-p "$parent"} \
        -F "$folder/message" "$tree")
    old=$(git rev-parse --verify --quiet "refs/tags/$tag") || old=
    if [ -n "$old" ] &&
        ! git cat-file tag "$old" 2>/dev/null | grep -q "^tagger $name <$email>"; then
        fail "The tag $tag is not ours and stays as it is: rename it, then type make tags again."
    fi
    git tag --force --no-sign --annotate --cleanup=verbatim --file="$folder/message" \
        "$tag" "$parent" >/dev/null
    new=$(git rev-parse "refs/tags/$tag")
    case $old in
    "$new") word=unchanged ;;
    "") word=made ;;
    *) word=moved ;;
    esac
    echo "$tag $new $word"
done
