# A worker's image: Python and what the chapters import. The chapters themselves are mounted by docker-compose.yml,
# so that an edit is there at the next start and nothing is built anew.
FROM python:3.11-slim AS stack
ARG STACK=pinned
WORKDIR /build
COPY tools/locks/uv.txt tools/locks/$STACK.txt tools/fix_billiard.py ./
# uv, because pip 24.1 and later refuse Celery 5.1.2.
RUN pip install --quiet --root-user-action=ignore --no-cache-dir --require-hashes --requirement uv.txt \
    && uv venv --quiet --no-project --python "$(command -v python)" /stack \
    && uv pip install --quiet --no-cache --compile-bytecode --require-hashes --no-deps --python /stack/bin/python --requirement $STACK.txt \
    && { [ $STACK != pinned ] || /stack/bin/python fix_billiard.py; }

FROM python:3.11-slim
RUN useradd celery
COPY --from=stack /stack /stack
ENV PATH=/stack/bin:$PATH
WORKDIR /course
USER celery
# In a folder that it may write to, as the course is read-only. With exec, the signal of a stop reaches Celery and not the shell.
CMD ["sh", "-c", "export PYTHONPATH=$(echo $PWD/chapters/$CHAPTER-*) && cd /var/tmp && exec celery -A tasks ${PROGRAM:-worker} --loglevel=info $ARGS"]
