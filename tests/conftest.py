"""One server for each pytest process, one worker for each chapter, and pytest-celery's fixtures on them."""

import gc
import json
import shutil
import tempfile
from pathlib import Path

import celery.app.builtins  # noqa: F401  registers Celery's own tasks
import containers
import pytest
from celery import _state
from celery.app.utils import find_app
from celery.result import AsyncResult
from course import (
    CHAPTERS,
    ROOT,
    TESTS,
    child_environment,
    described,
    expect_ready,
    fail,
    forget_modules,
    short,
)
from keeper import Keeper
from nodes import Processes, Worker
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryWorkerCluster,
    RedisTestBackend,
    RedisTestBroker,
)

CELERYS_OWN = set(_state._on_app_finalizers)
# A worker asks for a second, when it starts, whether there are others: not where a test starts one for itself.
ALONE = ["--without-mingle", "--without-gossip"]
# With the chapters, what should not be left for the end, where nothing would run beside it.
LONG = ("tests/test_2_when_a_worker_dies.py", "tests/test_5_more_workers.py")


def pytest_addoption(parser):
    group = parser.getgroup("course")
    group.addoption("--chapter", choices=CHAPTERS, help="run the suite of this chapter only")
    group.addoption(
        "--dir",
        help="run it on this folder instead of the chapter's own, with --chapter; written --dir=FOLDER",
    )
    group.addoption(
        "--docker", action="store_true", help="run the suites on containers: needs a Docker engine"
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "own_worker(count=1, probe=False, settings={}, args=(), env={}, copy=False, server=False): the test has workers, and a database,"
        " of its own; with probe=True they run tests/probe.py; copy=True gives them a copy of the folder, server=True a server",
    )
    folder = config.getoption("--dir")
    if folder:
        if not config.getoption("--chapter"):
            raise pytest.UsageError("--dir needs --chapter, to know which suite to run on it.")
        if not Path(folder).expanduser().is_dir():
            raise pytest.UsageError(f"There is no folder {folder}.")
    if config.getoption("--docker") and not hasattr(config, "workerinput"):
        containers.prepare()
    config.course = Course(config)


def pytest_generate_tests(metafunc):
    """A test that has `chapter` runs on its file's CHAPTER, or on every chapter where the file names none."""
    if "chapter" in metafunc.fixturenames:
        own = getattr(metafunc.module, "CHAPTER", None)
        known = [name for name in CHAPTERS if own in (None, name)]  # a tag holds one chapter only
        metafunc.parametrize("chapter", known, indirect=True, scope="session")


def chapter_of(item):
    own = getattr(item.module, "CHAPTER", None)
    return item.callspec.params.get("chapter", own) if hasattr(item, "callspec") else own


def group_of(nodeid):
    """Return the chapter, whose worker a lesson and the file named for the chapter share; other tests stand alone."""
    file, _, test = nodeid.partition("::")
    for chapter in CHAPTERS:
        if file == f"tests/test_{chapter.replace('-', '_')}.py":
            return chapter
        if file == "tests/test_lessons.py" and test.endswith(f"[{chapter}]"):
            return chapter
    return nodeid


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("--chapter")
    if wanted:
        left_out = [item for item in items if chapter_of(item) != wanted]
        items[:] = [item for item in items if chapter_of(item) == wanted]
        config.hook.pytest_deselected(items=left_out)
    # A lesson comes before the other tests of its chapter: it reads the log of a worker that has done nothing else.
    items.sort(
        key=lambda item: (
            not group_of(item.nodeid).startswith((*CHAPTERS, *LONG)),
            item.module.__name__ != "test_lessons",
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a group in one process. pytest-xdist's own loadgroup marks do not work with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(nodeid)

    return ByGroup(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    """Let a failure begin with its sentence, and not with pytest-xdist's line of which process ran it."""
    if report.failed and hasattr(report, "node"):
        del report.node


def pytest_unconfigure(config):
    if hasattr(config, "course"):
        config.course.close()


class Place:
    """A folder with an app, a database for it, and the workers that serve it."""

    def __init__(
        self,
        course,
        name,
        folder,
        count=1,
        probe=False,
        settings=None,
        args=(),
        env=None,
        without=(),
        server=False,
    ):
        self.course = course
        self.name = name
        self.folder = Path(folder)
        self.module = "probe" if probe else "tasks"
        self.database = course.next_database()
        self.broker, self.backend = course.nodes.databases(self.database, own=server)
        broker, backend = self.broker.celeryconfig, self.backend.celeryconfig
        self.url = broker["host_url"]
        # What the workers are given, and the environment of a client here: in containers a server has two addresses.
        variables = dict(env or {})
        if probe:
            variables["PYTHONPATH"] = str(TESTS)
            variables["PROBE_SETTINGS"] = json.dumps(settings or {})
        self.variables = {
            "CELERY_BROKER_URL": broker["url"],
            "CELERY_RESULT_BACKEND": backend["url"],
        } | variables
        self.env = child_environment(broker["host_url"], backend["host_url"]) | variables
        for variable in without:
            self.variables.pop(variable, None)
            self.env.pop(variable, None)
        self.args = list(args)
        self.workers = []
        for number in range(count):
            self.add_worker(["-n", f"worker{number + 1}@%h"] if count > 1 else [])

    def add_worker(self, args=()):
        """Start one more worker; it is not waited for."""
        level = [] if any(arg.startswith("--loglevel") for arg in self.args) else ["--loglevel=info"]
        command = ["celery", "-A", self.module, "worker", *level, "-c", "2"]
        command += [*self.args, *args]
        name = f"{self.name}-{self.database}-worker-{len(self.workers) + 1}"
        worker = self.course.nodes.worker(name, command, self.folder, self.variables)
        self.workers.append(worker)
        return worker

    def enter(self, monkeypatch):
        """Make the folder's modules importable, with its database in the environment; return the app."""
        for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "PROBE_SETTINGS"):
            if name in self.env:
                monkeypatch.setenv(name, self.env[name])
        monkeypatch.chdir(self.folder)
        monkeypatch.syspath_prepend(str(self.folder))
        forget_modules()
        # Celery gives an app the tasks of all apps that were imported before: these are other chapters' here.
        _state._on_app_finalizers.intersection_update(CELERYS_OWN)
        try:
            app = find_app(self.module)
            app.loader.import_default_modules()
        except Exception as error:  # noqa: BLE001  whatever the code under test raises
            fail(
                f"In {short(self.folder)}, `-A {self.module}` should find an app, and raised {described(error)}"
            )
        app.set_current()
        app.set_default()
        return app

    def close(self):
        for worker in self.workers:
            worker.teardown()
        self.broker.teardown()
        self.backend.teardown()


class Course:
    """What a pytest process has started. Nothing is started before a test needs it."""

    def __init__(self, config):
        self.config = config
        self.databases = 0
        self.main = {}
        self.started = False

    def start(self):
        if self.started:
            return
        self.started = True
        self.temp = Path(tempfile.mkdtemp(prefix="course-"))
        self.keeper = Keeper()
        kind = containers.Containers if self.config.getoption("--docker") else Processes
        self._nodes = kind(self.keeper, self.temp)

    @property
    def nodes(self):
        self.start()
        return self._nodes

    def next_database(self):
        self.databases += 1
        return self.databases

    def folder(self, chapter):
        other = self.config.getoption("--dir")
        return Path(other).expanduser().resolve() if other else ROOT / "chapters" / chapter

    def main_place(self, chapter):
        if chapter not in self.main:
            self.main[chapter] = Place(self, chapter, self.folder(chapter))
        return self.main[chapter]

    def close(self):
        if not self.started:
            return
        self.started = False
        for place in self.main.values():
            place.close()
        # A result that is deleted later would look for the server, for 20 seconds.
        for thing in gc.get_objects():
            if issubclass(type(thing), AsyncResult):
                thing.backend = None
        self._nodes.close()
        self.keeper.close()
        shutil.rmtree(self.temp, ignore_errors=True)


@pytest.fixture(scope="session")
def chapter(request):
    """The name of the chapter under test."""
    return request.param


@pytest.fixture(scope="session")
def course(request):
    return request.config.course


@pytest.fixture
def folder(chapter, course):
    """The folder under test: the chapter's own, or the learner's."""
    return course.folder(chapter)


@pytest.fixture
def place(request, chapter, course, tmp_path):
    """The chapter's worker and database, or the test's own where it is marked `own_worker`."""
    marker = request.node.get_closest_marker("own_worker")
    if not marker:
        yield course.main_place(chapter)
        return
    folder, options = course.folder(chapter), {"args": ALONE} | marker.kwargs
    if options.pop("copy", False):
        folder = shutil.copytree(
            folder, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    place = Place(course, chapter, folder, **options)
    yield place
    place.close()


@pytest.fixture
def app(place, monkeypatch):
    """The chapter's app, imported afresh; `celery_setup.app` is the same."""
    yield place.enter(monkeypatch)
    forget_modules()


# pytest-celery's fixtures, on the nodes of the test's place.


@pytest.fixture
def celery_setup_app(app):
    return app


@pytest.fixture
def celery_worker_cluster(place, app):
    for worker in place.workers:
        expect_ready(worker)
    return CeleryWorkerCluster(*(Worker(worker, app) for worker in place.workers))


@pytest.fixture
def celery_broker_cluster(place):
    return CeleryBrokerCluster(RedisTestBroker(place.broker))


@pytest.fixture
def celery_backend_cluster(place):
    return CeleryBackendCluster(RedisTestBackend(place.backend))


@pytest.fixture
def worker(celery_setup):
    return celery_setup.worker


@pytest.fixture
def redis(celery_setup):
    """A client of the test's broker."""
    return celery_setup.broker.container.client
