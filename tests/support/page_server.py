"""Chapter 13's page: its server, what it answers, and the Redis that tests take away from it."""

import asyncio
import importlib
import json
import threading
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPMessage
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import uvicorn
from redis.exceptions import RedisError
from support.assertions import describe
from support.patience import patience

from course.environment import free_port
from course.waiting import wait_until

ANSWER_SECONDS = 3

needs_page_server = pytest.mark.skipif(
    "config.option.docker", reason="the page's server runs on this machine: make test"
)

# What is no list of 1 to 1000 finite numbers.
BAD_BODIES = [
    b'["four"]',
    b"[]",
    b'{"a": 1}',
    b"[1",
    b"[1e400]",
    b"[NaN]",
    b'["inf"]',
    b"[[1]]",
    str([1] * 1001).encode(),
]


class Answer(NamedTuple):
    """What the page's server answered: the body is the JSON in it, or text if it has none."""

    status: int
    headers: HTTPMessage
    body: object


class PageServer:
    """The page's server on a port of 127.0.0.1, as a browser sees it."""

    def __init__(self, port):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path, numbers=None, seconds=None, when="", headers=()):
        """GET a path, or POST numbers to it (a list, or bytes as they are); return the Answer.

        Fail unless it arrives within this many seconds, or those of ANSWER_SECONDS for an attempt;
        `when` is for the sentence.
        """
        seconds = seconds or patience(ANSWER_SECONDS)
        data = numbers
        if isinstance(numbers, list):
            data = json.dumps(numbers).encode()
        headers = {"Content-Type": "application/json"} | dict(headers)
        request = Request(self.url + path, data, headers)
        what = f"{request.get_method()} {path[:10]} {when}".rstrip()
        try:
            return open_request(request, seconds)
        except TimeoutError:
            raise AssertionError(
                f"{what} should be answered within {seconds} seconds, but it wasn't."
            ) from None
        except OSError as error:
            raise AssertionError(
                f"{what} should be answered, but this was raised: {describe(error)}"
            ) from None

    def send(self, numbers):
        """POST numbers; return the path of the sum, or fail."""
        status, headers, body = self.ask("/sums", numbers)
        what = f"POST /sums with {numbers}"
        assert status == 202, f"{what} should answer 202, but it answered {status} {body}."
        sum_id = text_in(body, "id")
        assert sum_id, f'{what} should answer {{"id": "..."}}, but it answered {body}.'
        location = headers["Location"]
        # It may be the whole address, as FastAPI's url_for makes it.
        path = (location or "").removeprefix(self.url)
        assert path == f"/sums/{sum_id}", (
            f"{what} should have the header Location: /sums/{sum_id}, but it has {location!r}."
        )
        return path

    def state(self, path):
        """Return the body of the answer about a sum."""
        return self.ask(path).body

    def assert_state(self, path, wanted, when):
        """Fail unless GET of a sum answers 200 and this; `when` ends the sentence."""
        status, _, body = self.ask(path)
        assert (status, body) == (200, wanted), (
            f"GET {path[:10]}... should answer 200 {json.dumps(wanted)} {when},"
            f" but it answered {status} {body}."
        )


def post(server, headers, body=b""):
    """POST to /sums a body, or the beginning of the body that headers announce; return the Answer.

    Fail unless it arrives soon, even if the rest of the body never does.
    """
    seconds = patience(ANSWER_SECONDS)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=seconds)
    with closing(connection):
        connection.putrequest("POST", "/sums")
        for name, value in {"Content-Type": "application/json", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        try:
            response = connection.getresponse()
        except TimeoutError:
            raise AssertionError(
                f"POST /sums with {headers} should be answered within {seconds} seconds,"
                " whatever comes of its body, but it wasn't."
            ) from None
        return Answer(response.status, response.headers, parse_body(response.read()))


def open_request(request, seconds):
    """Return the Answer to a request, of whatever status."""
    try:
        response = urlopen(request, timeout=seconds)
    except HTTPError as error:
        response = error
    with response:
        return Answer(response.status, response.headers, parse_body(response.read()))


def parse_body(data):
    """Return what the JSON says, or the text if it is no JSON."""
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def text_in(body, key):
    """Return the text of this key of a body, or None."""
    if not isinstance(body, dict):
        return None
    value = body.get(key)
    if not isinstance(value, str):
        return None
    return value


def assert_refused(what, answer, status):
    """Fail unless a request was refused with this status and a sentence."""
    assert answer.status == status, (
        f"{what} should be answered with {status}, but it was with {answer.status} {answer.body}."
    )
    assert text_in(answer.body, "detail"), (
        f'{what} should be answered with {{"detail": "..."}}, a sentence, but it was with'
        f" {answer.body}."
    )


def id_of(path):
    """Return the id of a sum, which is its task's, too."""
    return path.removeprefix("/sums/")


def import_app(module):
    """Return the app of a module of the folder under test, or fail."""
    try:
        return importlib.import_module(module).app
    except ImportError as error:
        raise AssertionError(
            f"`uvicorn {module}:app` should find an app, but this was raised: {describe(error)}"
        ) from None
    except AttributeError:
        raise AssertionError(
            f"{module}.py should have an app, app = FastAPI(), but it has none."
        ) from None


class Server(uvicorn.Server):
    """A server that looks every hundredth of a second, not every tenth, whether it shall end."""

    async def main_loop(self):
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


@contextmanager
def serving(module="web"):
    """Serve the module's app in a thread of this process, so that tests see what it sends."""
    app = import_app(module)
    port = free_port()
    settings = uvicorn.Config(app, port=port, log_level="critical", timeout_graceful_shutdown=1)
    server = Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started, f"`uvicorn {module}:app` should start, but it didn't."
        yield PageServer(port)
    finally:
        server.should_exit = True
        thread.join(5)


def start_page_server(app_under_test):
    """Start uvicorn beside the app's workers, as a learner does; return the PageServer."""
    port = free_port()
    node = app_under_test.start("uvicorn", "web:app", "--port", str(port), "--no-access-log")
    wait_until(lambda: "Uvicorn running" in node.logs() or node.status == "exited", 60)
    assert node.status == "running", f"uvicorn web:app should start, but it exited.\n{node.logs()}"
    return PageServer(port)


@pytest.fixture
def page_server(app):
    """The page's server, in a thread of this process."""
    with serving() as server:
        yield server


class OwnRedis:
    """The app's own Redis server, which a test stops and starts again."""

    def __init__(self, server):
        self.server = server

    def stop(self):
        self.server.kill("SIGKILL")

    def freeze(self):
        """Let it accept connections and never answer."""
        self.server.kill("SIGSTOP")

    def start(self):
        self.server.start()
        wait_until(self.answers)

    def answers(self):
        try:
            return self.server.client.ping()
        except (OSError, RedisError):
            return False


@pytest.fixture
def own_redis(app_under_test):
    """The app's own Redis, in a test that is marked isolated(server=True)."""
    return OwnRedis(app_under_test.broker)
