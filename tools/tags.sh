#!/bin/sh
# Make the annotated tags chapter-1, chapter-2, … from what is committed. A tag's commit has the chapter before as its
# parent and holds one chapter's app at the top: the lesson as LESSON.md, and the same few files in every tag.
# The same files give the same ids on every machine: author, dates and time zone are fixed.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

name="Celery course" email=course@localhost
main=$(git rev-parse --verify --quiet HEAD) || fail "There is no commit to make tags from: commit first."
git status --porcelain -- chapters .gitattributes .gitignore LICENSE requirements.txt tools/tags.md |
    sed 's/^...\(.*\)/Not committed, so left out: \1/'
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
export GIT_AUTHOR_NAME="$name" GIT_AUTHOR_EMAIL=$email GIT_COMMITTER_NAME="$name" GIT_COMMITTER_EMAIL=$email

# The tree of a chapter, made in an index of its own. Where two lines name the same file, the later one counts.
tree_of() {
    ignored=$({
        git cat-file blob "$main:.gitignore"
        git cat-file blob "$main:chapters/$1/.gitignore" 2>/dev/null || :
    } | git hash-object -w --stdin)
    rm -f "$folder/index"
    {
        git ls-tree "$main" .gitattributes LICENSE requirements.txt
        git ls-tree -r "$main:chapters/$1"
        printf '100644 %s\t%s\n' "$(git rev-parse "$main:chapters/$1/README.md")" LESSON.md \
            "$(git rev-parse "$main:tools/tags.md")" README.md "$ignored" .gitignore
    } | GIT_INDEX_FILE=$folder/index git update-index --index-info
    GIT_INDEX_FILE=$folder/index git write-tree
}

parent=
for chapter in $(git ls-tree --name-only "$main:chapters" | grep '^[1-9][0-9]*-[a-z0-9-]*$' | sort -n); do
    tag=chapter-${chapter%%-*}
    date="$((1767225600 + ${chapter%%-*} * 86400)) +0000"
    export GIT_AUTHOR_DATE="$date" GIT_COMMITTER_DATE="$date"
    # The lesson's title, and its text up to the first heading.
    git cat-file blob "$main:chapters/$chapter/README.md" | sed -e '1s/^# //' -e '/^## /,$d' >"$folder/message"
    tree=$(tree_of "$chapter")
    parent=$(git -c i18n.commitEncoding=utf-8 commit-tree ${parent:+-p "$parent"} -F "$folder/message" "$tree")
    old=$(git rev-parse --verify --quiet "refs/tags/$tag") || old=
    [ -z "$old" ] || git cat-file tag "$old" 2>/dev/null | grep -q "^tagger $name <$email>" ||
        fail "The tag $tag is not ours and stays as it is: rename it, then type make tags again."
    git tag --force --no-sign --annotate --cleanup=verbatim --file="$folder/message" "$tag" "$parent" >/dev/null
    new=$(git rev-parse "refs/tags/$tag")
    case $old in "$new") word=unchanged ;; "") word=made ;; *) word=moved ;; esac
    echo "$tag $new $word"
done
