#!/bin/sh
# Run a command in a chapter's folder, with the stack's programs first on PATH.
# REDIS_PORT=6380 in the environment points it at the server there, and not at the one that the chapter names.
# usage: STACK=pinned in-chapter.sh CHAPTER COMMAND [ARGUMENT...]
set -eu
cd "${0%/*}/.."
PATH=$PWD/.course/$STACK/bin:$PATH
export PATH
if [ "${REDIS_PORT:-6379}" != 6379 ]; then
    : "${CELERY_BROKER_URL=redis://127.0.0.1:$REDIS_PORT/0}" "${CELERY_RESULT_BACKEND=redis://127.0.0.1:$REDIS_PORT/0}"
    export CELERY_BROKER_URL CELERY_RESULT_BACKEND
fi
cd "chapters/$1"
shift
exec "$@"
