"""Fixtures of the suites: a server for each pytest process, a worker for each file of tests.

pytest-celery's own fixtures get these as their nodes.
"""

import os
import re
import runpy
import shutil
import signal
from functools import partialmethod
from pathlib import Path
from socketserver import BaseServer

import pytest
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryWorkerCluster,
    RedisTestBackend,
    RedisTestBroker,
)
from support.assertions import describe, wait_until_ready
from support.celery_internals import delete_results_silently, number_few_channels
from support.lessons import LessonRunner
from support.names import ALONE
from support.nodes import IGNORED, AppUnderTest, ProcessFactory, Worker
from support.overlays import assert_sentence, find_overlays, is_wrong
from support.patience import short_waits
from support.reaper import Reaper

from course.chapters import ROOT, find_chapter, find_folder

TESTS = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption(
        "--chapter", help="run the suite of this chapter only, on the folder DIR if it is set"
    )
    parser.addoption(
        "--docker", action="store_true", help="run the suites on containers, in a Docker engine"
    )


def pytest_configure(config):
    # A shell lets programs in the background ignore Ctrl-C, and the programs that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    delete_results_silently()
    number_few_channels()
    number = config.option.chapter
    if number:
        check_folder(number)
        config.args[:] = [str(path) for path in sorted(TESTS.glob(f"test_{number}_*.py"))]
    else:
        os.environ.pop("DIR", None)
    is_xdist_worker = hasattr(config, "workerinput")
    if config.option.docker and not is_xdist_worker:
        from support import containers

        containers.prepare()


def check_folder(number):
    """Raise a UsageError with a sentence if a chapter, or the folder DIR, doesn't exist."""
    try:
        find_folder(number)
    except SystemExit as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Report a failed assertion as its sentence, and on an attempt any exception as one line."""
    report = yield
    if not call.excinfo or not report.failed:
        return report
    error = call.excinfo.value
    if isinstance(error, AssertionError) and str(error):
        report.longrepr = str(error)
    elif os.environ.get("DIR"):
        report.longrepr = f"This could not be tested further: {describe(error)}"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    """Begin a failure with its sentence, and not with the process of pytest-xdist that ran it."""
    if report.failed and hasattr(report, "node"):
        del report.node


def pytest_generate_tests(metafunc):
    """Run a star test on each of its overlays; on the attempt alone if there is one."""
    is_star = metafunc.definition.get_closest_marker("star")
    if is_star and not os.environ.get("DIR"):
        overlays = find_overlays(Path(metafunc.module.__file__), metafunc.function.__name__)
        names = [overlay.name for overlay in overlays]
        metafunc.parametrize("overlay", overlays, ids=names, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Let a star test pass on a wrong overlay if it fails there with a sentence."""
    overlay = pyfuncitem.funcargs.get("overlay")
    if overlay is None or not is_wrong(overlay):
        return (yield)
    try:
        with short_waits():
            yield
    except AssertionError as error:
        assert_sentence(overlay, str(error))
        return True
    raise AssertionError(f"The wrong answer {overlay.name} should fail, but it passes.")


@pytest.fixture(scope="session")
def nodes(request, tmp_path_factory):
    """The factory of servers and workers, which are processes or containers."""
    if request.config.option.docker:
        from support.containers import ContainerFactory as Factory
    else:
        Factory = ProcessFactory
    reaper = Reaper()
    yield Factory(reaper, tmp_path_factory.mktemp("nodes"))
    # This ends the server that tests share.
    reaper.close()


@pytest.fixture(scope="module")
def number(request):
    """The number of the chapter that a file tests, as text."""
    return re.match(r"test_(\d+)_", request.module.__name__)[1]


@pytest.fixture(scope="module")
def overlay(request):
    """The answer to a star step that the test checks; None in any other test."""
    return getattr(request, "param", None)


@pytest.fixture(scope="module")
def folder(number, overlay, tmp_path_factory):
    """The folder under test: the chapter's own, or the learner's.

    It is a copy if the chapter's .gitignore names files that it writes, or with an overlay on it.
    """
    folder = find_folder(number)
    writes_files = (ROOT / "chapters" / find_chapter(number) / ".gitignore").exists()
    if not writes_files and not overlay:
        return folder
    copy = tmp_path_factory.mktemp("copy") / folder.name
    shutil.copytree(folder, copy, ignore=IGNORED)
    if overlay:
        shutil.copytree(overlay, copy, ignore=IGNORED, dirs_exist_ok=True)
    return copy


@pytest.fixture(scope="module")
def shared(request, nodes, folder, overlay):
    """The worker and the database that the tests of a file share."""
    options = {}
    # A lesson shows what a worker logs by default.
    if os.environ.get("DIR") or overlay:
        options = {"args": ALONE} | getattr(request.module, "CHECKED_WITH", {})
    made = AppUnderTest(nodes, folder, **options)
    request.getfixturevalue("started_early")
    yield made
    made.close()


@pytest.fixture(scope="module")
def started_early(request, nodes, folder):
    """The apps of an attempt's `isolated` steps by test: their workers start beside the others."""
    early = {}
    if not os.environ.get("DIR"):
        yield early
        return
    for item in request.session.items:
        marker = item.get_closest_marker("isolated")
        is_step = item.module is request.module and item.get_closest_marker("step")
        if is_step and marker and "copy" not in marker.kwargs:
            early[item.name] = AppUnderTest(nodes, folder, **{"args": ALONE} | marker.kwargs)
    yield early
    for isolated in early.values():
        isolated.close()


@pytest.fixture
def app_under_test(request, nodes, folder, tmp_path):
    """The worker and the database that tests share, or the test's own if it is `isolated`."""
    marker = request.node.get_closest_marker("isolated")
    if not marker:
        shared = request.getfixturevalue("shared")
        yield shared
        shared.forget_modules()
        return
    options = {"args": ALONE} | marker.kwargs
    if options.pop("copy", False):
        folder = shutil.copytree(folder, tmp_path / "copy", ignore=IGNORED)
    early = request.getfixturevalue("started_early")
    isolated = early.pop(request.node.name, None) or AppUnderTest(nodes, folder, **options)
    yield isolated
    isolated.forget_modules()
    isolated.close()


@pytest.fixture
def app(app_under_test, monkeypatch):
    """The chapter's app, imported anew; `celery_setup.app` is the same."""
    return app_under_test.enter(monkeypatch)


@pytest.fixture
def ledger(app, folder):
    """The path of the ledger that a chapter writes; there is no file yet."""
    path = folder / "ledger.db"
    path.unlink(missing_ok=True)
    return path


@pytest.fixture
def bank(app, number, monkeypatch):
    """The chapter's bank, in a good mood, at the address that the worker of the test knows."""
    # By default, its thread looks every half a second whether it shall end.
    serve = partialmethod(BaseServer.serve_forever, poll_interval=0.01)
    monkeypatch.setattr(BaseServer, "serve_forever", serve)
    path = ROOT / "chapters" / find_chapter(number) / "bank.py"
    bank = runpy.run_path(str(path))["Bank"]()
    yield bank
    bank.shutdown()
    bank.server_close()


@pytest.fixture
def lesson(request, number, shared, tmp_path):
    """The chapter's lesson, which `lesson.holds()` runs."""
    if os.environ.get("DIR"):
        pytest.skip("a lesson runs on the course's own chapter, not on an attempt")
    return LessonRunner(find_folder(number) / "README.md", shared, tmp_path)


# pytest-celery's fixtures, on the nodes of the test's app.


@pytest.fixture
def celery_setup_app(app):
    return app


@pytest.fixture
def celery_worker_cluster(app_under_test, app):
    return CeleryWorkerCluster(
        *(Worker(wait_until_ready(worker), app) for worker in app_under_test.workers)
    )


@pytest.fixture
def celery_broker_cluster(app_under_test):
    return CeleryBrokerCluster(RedisTestBroker(app_under_test.broker))


@pytest.fixture
def celery_backend_cluster(app_under_test):
    return CeleryBackendCluster(RedisTestBackend(app_under_test.backend))


@pytest.fixture
def worker(celery_setup):
    return celery_setup.worker


@pytest.fixture
def redis(celery_setup):
    """A client of the test's broker."""
    return celery_setup.broker.container.client
