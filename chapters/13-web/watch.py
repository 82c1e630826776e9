"""Print what happens, live: `python watch.py`, beside a worker with -E."""

from contextlib import suppress

from tasks.celery import app

state = app.events.State()


def show(event):
    """Print an event; of a worker's heartbeats, only the first."""
    (subject, is_new), _ = state.event(event)
    if event["type"].startswith("task-"):
        end = subject.result or subject.exception or ""
        print(event["type"], subject.name, subject.uuid, end, flush=True)
    elif is_new or event["type"] != "worker-heartbeat":
        print(event["type"], event["hostname"], flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt), app.connection() as connection:
        app.events.Receiver(connection, handlers={"*": show}).capture()
