#!/bin/sh
# Replace what runs by the version that .env names, while tasks arrive: sh update.sh
set -eu
cd "$(dirname "$0")"

# Take no more messages. A second later, none is on its way to a worker that is about to stop.
for queue in celery ledger rates; do
    docker compose exec -T worker celery -A tasks control cancel_consumer $queue || true
done
sleep 2
# The workers first, because they must know each task that the others send.
docker compose up -d --no-deps worker ledger rates
docker compose up -d --no-deps beat web flower
