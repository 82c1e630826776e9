# A worker's image: Python and what the chapters import. docker-compose.yml mounts the chapters
# themselves, so that a worker has an edit after a restart, without a build.
FROM python:3.11-slim AS stack
ARG STACK=pinned
WORKDIR /build
COPY tools/locks/uv.txt tools/locks/$STACK.txt tools/fix_billiard.py ./
# uv, because pip 24.1 and later refuse Celery 5.1.2.
RUN pip install --quiet --root-user-action=ignore --no-cache-dir \
        --require-hashes --requirement uv.txt \
    && uv venv --quiet --no-project --python "$(command -v python)" /stack \
    && uv pip install --quiet --no-cache --compile-bytecode --python /stack/bin/python \
        --require-hashes --no-deps --requirement $STACK.txt \
    && { [ $STACK != pinned ] || /stack/bin/python fix_billiard.py; }

FROM python:3.11-slim
RUN useradd celery
COPY --from=stack /stack /stack
ENV PATH=/stack/bin:$PATH
WORKDIR /course
USER celery
# The course is mounted read-only, so a worker writes to /var/tmp. With exec, Celery and not the shell
# receives the signal of a stop.
CMD export PYTHONPATH=$(echo $PWD/chapters/$CHAPTER-*) \
    && cd /var/tmp \
    && exec celery -A tasks ${PROGRAM:-worker} --loglevel=info $ARGS
