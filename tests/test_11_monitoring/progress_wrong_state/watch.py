"""Print what happens, live: `python watch.py`, beside a worker with -E."""

from contextlib import suppress

from tasks.celery import app

state = app.events.State()


def show(event):
    """Print an event; of a worker's heartbeats, only the first."""
    is_new = event["hostname"] not in state.workers
    state.event(event)
    if event["type"].startswith("task-"):
        show_task(event)
    elif is_new or event["type"] != "worker-heartbeat":
        print(event["type"], event["hostname"], flush=True)


def show_task(event):
    """Print a task's event with the task's name, and at the end what came of it."""
    task = state.tasks[event["uuid"]]
    words = [event["type"], task.name, task.uuid]
    if event["type"] == "task-progress":
        words.append(f"{event['done']} of {event['of']}")
    if event["type"] == "task-succeeded":
        words.append(event["result"])
    if event["type"] == "task-failed":
        words.append(event["exception"])
    print(*words, flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt), app.connection() as connection:
        app.events.Receiver(connection, handlers={"*": show}).capture()
