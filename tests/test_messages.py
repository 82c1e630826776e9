"""`make messages` shows what travels, whatever it is: malformed, big, or from a server that was restarted."""

import pytest
from course import ROOT, wait_until
from nodes import ServerContainer, WorkerProcess

STRANGE = b'{"headers": {"task": "\\ud800\\n", "id": 1}, "properties": {"delivery_tag": {}}}'
MALFORMED = [b"", b"\xff\x00\x1b[31m", b"[[]]", STRANGE, b"[" * 100_000, b"\xff" * 10_000_000]


@pytest.fixture
def server(nodes, tmp_path):
    made = ServerContainer(nodes.reaper, tmp_path).database(0)
    yield made
    made.teardown()


def test_messages_shows_what_is_there(server, nodes, tmp_path):
    command = ["python", ROOT / "tools" / "messages.py", server.celeryconfig["url"]]
    messages = WorkerProcess(nodes.reaper, "messages", tmp_path, command, ROOT, {})

    def shows(text):
        wait_until(lambda: text in messages.logs() or messages.status == "exited", 20)
        assert text in messages.logs(), f"make messages should show {text}, not {messages.logs()[-300:]}"

    try:
        shows("Ctrl-C ends this.")
        for number, body in enumerate(MALFORMED):
            server.client.lpush(f"queue-{number}", body)
            shows(f"waits in queue 'queue-{number}'")
        server.client.set("celery-task-meta-an-id", "{}")
        shows("something unreadable ({}) for an-id, kept for ever")
        server.restart()
        shows("Redis is back.")
        server.client.lpush("later", "nonsense")
        shows("an unreadable message (nonsense) waits in queue 'later'")
    finally:
        messages.teardown()
