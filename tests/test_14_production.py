"""Chapter 14: the settings and the compose.yml of a server.

What a stop does is in test_14_stopping.py.
"""

import re
import subprocess
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from support.assertions import (
    WARM_STOP,
    ask_workers,
    assert_raises,
    assert_result,
    longest_limit,
    suggest_setting,
    wait_until_ready,
)
from support.carried import assert_carried_settings, assert_carried_tasks
from support.commands import run_celery
from support.compose_files import (
    App,
    assert_dollars,
    assert_files_are_kept,
    assert_flower_can_start,
    assert_image_has_no_password,
    assert_no_ping_for_others,
    assert_redis_is_asked_with_its_password,
    assert_worker_is_asked_alone,
)
from support.names import ADD, ALONE
from support.nodes import AppUnderTest, stopped
from support.tls import TlsProxy, make_certificate

from course.chapters import find_folder
from course.environment import PINNED, PROGRAMS, URLS, environment
from course.waiting import wait_until

no_worker = pytest.mark.isolated(count=0)
PASSWORD = "sword/fish@#%41"
PRINT_URLS = """
from kombu import Connection
from tasks.celery import app
found = set()
for url in app.conf.broker_url, app.conf.result_backend:
    given = Connection(url)
    found.add((given.hostname, given.port, given.password))
print(*found)
"""
PING = """
from tasks.celery import app
try:
    with app.connection() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        connection.default_channel.client.ping()
    app.backend.client.ping()
    print("reached")
except Exception as error:
    print(error)
"""
ADD_TWO = """
from tasks import add_request
print(add_request.delay(4, 4).get(timeout=20))
"""


@pytest.fixture(scope="module")
def compose(number):
    """The folder under test as compose reads it."""
    return App(find_folder(number))


def own_tasks(app):
    """Return the names of the app's tasks, without Celery's own."""
    return sorted(name for name in app.tasks if name.startswith("tasks."))


def assert_all(services, sentence, condition):
    """Fail with this sentence and the names of the services that don't meet the condition."""
    wrong = [service.name for service in services if not condition(service)]
    assert not wrong, f"{sentence}: {', '.join(wrong)}."


@pytest.mark.skipif(
    "config.option.docker",
    reason="the lesson sends signals to processes of this machine: make test",
)
def test_lesson(lesson):
    lesson.holds()


@no_worker
@pytest.mark.step(
    "`lengths.lengths()` returns how many messages are waiting in each queue, whatever their"
    " priority",
    "fridays-queue",
)
def test_lengths_count_every_priority(app, app_under_test):
    """queue_declare(name).message_count of a channel. LLEN of a queue's name sees one priority."""
    redis = app_under_test.broker.client
    for priority in (0, 3, 9):
        message = app.tasks[ADD].s(4, 4).set(priority=priority)
        message.apply_async()
    assert redis.llen("celery") == 1, "Celery should keep the messages of each priority apart."
    assert find_spec("lengths"), "There should be a module lengths.py, but there is none."
    found = import_module("lengths").lengths()
    wanted = dict.fromkeys(app.amqp.queues, 0) | {"celery": 3}
    assert found == wanted, (
        f"lengths() should return {wanted} for three additions of different priorities,"
        f" but it returned {found}."
    )


@pytest.mark.step(
    "`REDIS_HOST`, `REDIS_PORT` and `REDIS_PASSWORD_FILE` say where Redis is, and which file has"
    " its password, of any characters",
    "settings-for-a-server",
)
def test_the_environment_names_redis(folder, tmp_path):
    """celeryconfig.py is Python: a function may read os.environ and the file, without its last
    line's end, and urllib.parse.quote the password with safe=''."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    variables = {
        "REDIS_HOST": "redis.example",
        "REDIS_PORT": "6380",
        "REDIS_PASSWORD_FILE": str(secret),
    }
    here, there = run_python(folder, PRINT_URLS, {}, variables)
    assert_urls(here, "no variable", ("127.0.0.1", 6379, None))
    assert_urls(there, " and ".join(variables), ("redis.example", 6380, PASSWORD))


def assert_urls(found, names, wanted):
    """Fail unless a line says that the broker and the result backend are this one server."""
    assert found == str(wanted), (
        f"With {names}, broker_url and result_backend should have this host, port and password:"
        f" {wanted}, but they have: {found}"
    )


def run_python(folder, code, *environments):
    """Run Python in a folder once with each of these variables, side by side.

    Return the last line that each prints.
    """
    processes = []
    for variables in environments:
        process = subprocess.Popen(
            [PROGRAMS / "python", "-c", code],
            cwd=folder,
            env=environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
    lines = []
    for process in processes:
        output, _ = process.communicate(timeout=120)
        lines.append((output.strip() or "nothing").splitlines()[-1])
    return lines


@pytest.mark.isolated(count=0, server=True)
@pytest.mark.step(
    "with `REDIS_CA_FILE`, the connection uses TLS, and only a server is accepted whose certificate"
    " this file vouches for",
    "settings-for-a-server",
)
def test_the_environment_asks_for_tls(folder, app_under_test, tmp_path):
    """rediss:// and behind the URL ?ssl_cert_reqs=required&ssl_ca_certs=, with the file's quoted
    path."""
    make_certificate(tmp_path / "right.pem")
    make_certificate(tmp_path / "wrong.pem")
    with tls_in_front(app_under_test, tmp_path / "right.pem") as (proxy, variables):
        other = variables | {"REDIS_CA_FILE": str(tmp_path / "wrong.pem")}
        right, wrong = run_python(folder, PING, variables, other)
    assert proxy.handshakes, f"With REDIS_CA_FILE, the connection should use TLS: {right}"
    assert right == "reached", (
        "With the REDIS_CA_FILE of its authority, a Redis behind TLS should be reached, but"
        f" this was: {right}"
    )
    assert "certificate verify failed" in wrong, (
        "With the REDIS_CA_FILE of another authority, Redis should be refused because of its"
        f" certificate, but this was: {wrong}"
    )


@contextmanager
def tls_in_front(app_under_test, certificate):
    """Let a test's Redis require a password, and put a TLS proxy in front of it.

    Give the proxy, and the variables of a client that knows the password and the certificate.
    """
    password_file = certificate.with_name("password")
    password_file.write_text(PASSWORD + "\n")
    app_under_test.broker.client.config_set("requirepass", PASSWORD)
    port = urlsplit(app_under_test.broker.celeryconfig["host_url"]).port
    with TlsProxy(port, certificate) as proxy:
        variables = {
            "REDIS_PORT": str(proxy.port),
            "REDIS_PASSWORD_FILE": str(password_file),
            "REDIS_CA_FILE": str(certificate),
        }
        yield proxy, variables


@no_worker
@pytest.mark.step(
    "every task has a soft time limit, and a hard one above it", "settings-for-a-server"
)
def test_every_task_has_limits(app):
    """task_soft_time_limit and task_time_limit in celeryconfig.py are for all tasks that have none
    of their own."""
    for name in own_tasks(app):
        hard = app.tasks[name].time_limit or app.conf.task_time_limit
        assert hard, f"Every task should have a hard time limit, but {name} has none."
        soft = app.tasks[name].soft_time_limit or app.conf.task_soft_time_limit
        assert soft and soft < hard, (
            f"{name} should have a soft limit below its hard one, {hard}, but it is {soft}."
        )


@no_worker
@pytest.mark.step(
    "a message is handed out again after all that a process may hold could have run, and within"
    " ten minutes",
    "settings-for-a-server",
)
def test_the_visibility_timeout_fits_the_limits(app):
    """A worker holds worker_prefetch_multiplier messages for each process, and each may take as
    long as the limit."""
    found = app.conf.broker_transport_options.get("visibility_timeout", 3600)
    held = app.conf.worker_prefetch_multiplier
    assert held, "worker_prefetch_multiplier should not be 0: a process may hold any number then."
    longest = longest_limit(app)
    assert held * longest < found <= 600, (
        f"visibility_timeout should be above {held} × {longest} seconds, and at most 600,"
        f" but it is {found}."
    )


@no_worker
@pytest.mark.step(
    "a process is replaced after a number of tasks, and above some memory", "settings-for-a-server"
)
def test_processes_are_replaced(app):
    """worker_max_tasks_per_child, and worker_max_memory_per_child in KiB: an empty process has some
    40,000."""
    for name, least in ("worker_max_tasks_per_child", 1), ("worker_max_memory_per_child", 60_000):
        found = app.conf.get(name)
        suggestion = suggest_setting(app, name)
        assert found, f"The app's configuration should set {name}, but it doesn't{suggestion}"
        assert found >= least, (
            f"{name} should be at least {least:,}, or each task gets a new process, but it is"
            f" {found}."
        )


@no_worker
@pytest.mark.step(
    "`compose.yml` has Redis, a worker for each queue, beat, the bank, the page's server and"
    " Flower",
    "the-whole-app-in-one-file",
)
def test_the_services_are_there(app, compose):
    """A service's command says what it is. A worker takes from the queues of its -Q, or from all
    but those of -X."""
    for kind in "Redis", "worker", "beat", "bank", "page", "Flower":
        assert compose.of_kind(kind), (
            "compose.yml should have Redis, a worker, beat, the bank, the page and Flower,"
            f" but {kind} is missing."
        )
    assert_flower_can_start(compose)
    queues = app.conf.task_queues
    consumed = []
    for worker in compose.workers():
        consumed += worker.queues(queues)
    for queue in queues:
        assert queue in consumed, (
            f"A worker of compose.yml should consume from the queue {queue}, but none does."
        )
    beats = [service.name for service in compose.of_kind("beat")]
    for worker in compose.workers():
        if re.search(r"\s(-B|--beat)\b", worker.command):
            beats.append(worker.name)
    assert len(beats) == 1, (
        f"There should be one beat, but there are {len(beats)}: {', '.join(beats)}."
    )


@no_worker
@pytest.mark.step(
    "a single process takes from `ledger`; what it, beat and the page write is in volumes",
    "the-whole-app-in-one-file",
)
def test_the_ledger_has_one_writer(app, compose):
    """-Q ledger -c 1 for one service, and -X ledger for the other. A worker of its own has one
    container. The Dockerfile gives the volume's folder to the user who runs there."""
    queues = app.conf.task_queues
    writers = [worker for worker in compose.workers() if "ledger" in worker.queues(queues)]
    names = ", ".join(worker.name for worker in writers)
    assert len(writers) == 1, (
        f"One service should consume from the queue ledger, but {len(writers)} do: {names}."
    )
    [writer] = writers
    processes = writer.option("-c", "--concurrency")
    is_solo = writer.option("-P", "--pool") == "solo"
    assert is_solo or processes == "1", (
        f"The service {names} should have one process, -c 1, but its -c is {processes}."
    )
    autoscale = writer.option("--autoscale")
    assert not autoscale, (
        f"The service {names} should have one process, but its --autoscale is {autoscale}."
    )
    containers = writer.container_count()
    assert containers == 1, (
        f"The service {names} should have one container, but it has {containers}."
    )
    assert_files_are_kept(compose, queues)


@pytest.mark.step(
    "each service has a restart policy, a limit on memory, and a health check of its own",
    "the-whole-app-in-one-file",
)
def test_each_service_is_looked_after(compose):
    """restart, healthcheck and mem_limit. An anchor, x-app: &app, and <<: *app say it once for
    all."""
    services = compose.services
    sentence = "Every service should have a restart policy, but it is missing in"
    assert_all(services, sentence, lambda service: service.has_restart_policy())
    sentence = "Every service should have a health check, but it is missing in"
    assert_all(services, sentence, lambda service: service.health_check())
    sentence = "Every service should have a limit on memory, but it is missing in"
    assert_all(services, sentence, lambda service: service.has_memory_limit())
    assert_dollars(compose)
    assert_no_ping_for_others(compose)


@no_worker
@pytest.mark.step(
    "a worker's health check asks that worker alone, and a stop waits longer than a task may take",
    "the-whole-app-in-one-file",
)
def test_workers_are_asked_and_waited_for(app, compose):
    """celery -A tasks inspect ping --destination celery@$$HOSTNAME. stop_grace_period is ten
    seconds unless you set it."""
    assert_worker_is_asked_alone(compose)
    longest = longest_limit(app)

    def waits_for_the_longest(worker):
        return worker.stop_grace_period() > longest

    sentence = f"stop_grace_period should be above {longest} s, the longest task, but it isn't in"
    assert_all(compose.workers(), sentence, waits_for_the_longest)


def host_of(port):
    """Return the address that an entry of `ports` is published on."""
    if isinstance(port, dict):
        return str(port.get("host_ip"))
    return str(port).rpartition(":")[0]


@pytest.mark.step(
    "only the page and Flower are published, on 127.0.0.1", "the-whole-app-in-one-file"
)
def test_what_is_published(compose):
    """ports: ["127.0.0.1:8000:8000"]. Without the address, the port is open to the network."""
    for service in compose.services:
        ports = service.given.get("ports") or []
        if service.kind in ("page", "Flower"):
            assert ports, f"{service.name} should publish a port, but it publishes none."
        else:
            assert not ports, f"{service.name} should publish no port, but it publishes {ports}."
        for port in ports:
            assert host_of(port).startswith("127.0.0.1"), (
                f"{service.name} should publish on 127.0.0.1, but it has {port}."
            )
        network = service.given.get("network_mode")
        assert network != "host", (
            f"{service.name} should not be in the host's network, but its network_mode is host."
        )


def assert_requires_password(service):
    """Fail unless the service of Redis requires a password that it reads from a secret."""
    text = service.command + str(service.given.get("volumes", ""))
    if re.search(r"redis-server\W+/run/secrets/", text):
        return  # its whole configuration is a secret
    found = re.search(r"(requirepass|aclfile)\W+(\S+)", text)
    assert found, (
        f"{service.name} should require a password with requirepass, but its command is"
        f" {service.command!r}."
    )
    password = found[2]
    assert password.startswith(("$", "/")) or "cat" in password, (
        f"{service.name} should read the password from the secret, but compose.yml has"
        f" {password!r}."
    )


@pytest.mark.step(
    "Redis wants a password and Flower a login; both are secrets, and in no image",
    "the-whole-app-in-one-file",
)
def test_the_passwords_are_secrets(compose):
    """secrets: [redis_password] in each service; Redis reads the file for its requirepass, and
    Flower another for FLOWER_BASIC_AUTH or --basic-auth."""
    for service in compose.services:
        if service.kind == "Redis":
            assert_requires_password(service)
        elif service.kind != "bank":
            variables = service.variables()
            assert "REDIS_PASSWORD_FILE" in variables and "/run/secrets/" in variables, (
                f"{service.name} should have REDIS_PASSWORD_FILE in its environment, a file of"
                f" /run/secrets, but its environment is {variables or 'empty'}."
            )
        if service.kind != "bank":
            assert service.secrets(), f"{service.name} should be given the secret, but it isn't."
        if service.kind == "Flower":
            assert_flower_has_a_login(service)
    assert_redis_is_asked_with_its_password(compose)
    assert_image_has_no_password(compose)


def assert_flower_has_a_login(service):
    """Fail unless Flower reads a login from a secret."""
    found = re.search(r"(FLOWER_BASIC_AUTH|basic.auth)\W+(\S+)", service.command)
    assert found, f"{service.name} should ask for a login, with FLOWER_BASIC_AUTH or --basic-auth."
    assert "/run/secrets/" in service.command, (
        f"{service.name} should read its login from a secret, but its command has {found[2]!r}."
    )


@pytest.mark.step("no service runs as root", "the-whole-app-in-one-file")
def test_who_runs(compose):
    """USER in the Dockerfile, after its last FROM, or user: in the service."""
    for service in compose.services:
        user = compose.user(service)
        assert user and user.partition(":")[0] not in ("root", "0"), (
            f"{service.name} should not run as root, but its user is {user or 'not set'}."
        )


@no_worker
@pytest.mark.step(
    "the tasks and the settings of chapter 13 are still there", "settings-for-a-server"
)
def test_what_chapter_13_had(app, number):
    """Nothing else changes in this chapter."""
    assert_carried_tasks(app, number)
    assert_carried_settings(app, number)


@pytest.mark.isolated(args=["-X", "celery", *ALONE])
@pytest.mark.star(
    "`alarm_request(limit)` returns the names of the queues in which more than `limit` messages are"
    " waiting, whatever their priority, and it answers while `celery` is full",
    "fridays-queue",
)
def test_star_alarm(worker, app):
    """lengths() counts. And which queue does the alarm itself wait in? @app.task(queue=...) names
    another."""
    for number in range(4):
        app.tasks[ADD].apply_async((number, number), priority=9)
    names = [name for name in own_tasks(app) if name.endswith(".alarm_request")]
    assert names, "There should be a task alarm_request, but the app has none."
    result = app.tasks[names[0]].delay(3)
    assert_result("alarm_request.delay(3), while 4 messages wait in celery,", result, ["celery"])
    result = app.tasks[names[0]].delay(4)
    assert_result("alarm_request.delay(4), while 4 messages wait in celery,", result, [])


# What follows is about Celery itself, and about the machine.


@pytest.mark.isolated(
    slow_tasks=True, args=["-c", "1", *ALONE], settings={"worker_max_memory_per_child": 1000}
)
def test_a_process_with_too_much_memory_is_replaced_after_its_task(worker, app):
    what = "A task in a process with too much memory"
    for number in range(2):
        assert_result(what, app.tasks["slow.nap"].delay(0, number), number)
    second = "ForkPoolWorker-2] Task"
    wait_until(lambda: second in worker.logs())
    assert second in worker.logs(), (
        f"The second task should run in a new process, but it didn't.\n{worker.logs()}"
    )


@pytest.mark.isolated(
    slow_tasks=True,
    args=["--autoscale=3,1"],
    env={"AUTOSCALE_KEEPALIVE": "1", "SLOW_TASKS_LOOK": "0.2"},
)
def test_autoscale_goes_down_too(worker, app):
    def count_processes():
        [stats] = ask_workers(app, "stats").values()
        return len(stats["pool"]["processes"])

    results = [app.tasks["slow.held"].delay() for _ in range(3)]
    assert wait_until(lambda: count_processes() == 3), (
        f"Three tasks should make three processes, but there are {count_processes()}."
    )
    app.backend.client.set("released", 1)
    for result in results:
        assert_result("slow.held", result, None)
    # The pool counts a process that has ended until its next check, and would end it again
    # instead of another.
    assert wait_until(lambda: count_processes() == 1, 60), (
        f"An idle worker should keep one process, but it keeps {count_processes()}."
    )


def test_an_argument_that_a_worker_doesnt_know(worker, app):
    """Its message is from a newer client."""
    result = app.send_task(ADD, (4, 4), {"precision": 2})
    with assert_raises(TypeError, "A task that gets an unknown argument should raise TypeError"):
        result.get(timeout=30)


def test_inspect_ping_with_a_destination_asks_one_worker(worker, app_under_test):
    ping = ["inspect", "ping", "--timeout", "1"]
    answers = wait_until(lambda: run_celery(app_under_test, *ping)[0] == 0)
    assert answers, "inspect ping should exit with 0, but it doesn't."
    status, _ = run_celery(app_under_test, *ping, "--destination", "celery@gone")
    assert status == 69, (
        "inspect ping should exit with 69 for a worker that isn't there, but it exited with"
        f" {status}."
    )


@pytest.mark.skipif("config.option.docker", reason="a container doesn't reach the proxy: make test")
@pytest.mark.isolated(count=0, server=True)
def test_a_task_by_tls(nodes, folder, app_under_test, tmp_path):
    """A client and a worker use the broker and the result backend by TLS."""
    certificate = tmp_path / "redis.pem"
    make_certificate(certificate)
    with tls_in_front(app_under_test, certificate) as (_, variables):
        env = variables | dict.fromkeys(URLS)
        by_tls = AppUnderTest(nodes, folder, args=ALONE, env=env)
        wait_until_ready(by_tls.workers[0])
        [found] = run_python(folder, ADD_TWO, variables)
        by_tls.close()
    assert found == "8", f"add_request should return 8 by TLS, but it returned {found}"


@pytest.mark.row("A TLS certificate for another host")
@pytest.mark.isolated(count=0, server=True)
def test_whose_name_is_in_the_certificate(folder, app_under_test, tmp_path):
    """The client of Celery 5.1 doesn't compare it with the host's."""
    certificate = tmp_path / "elsewhere.pem"
    make_certificate(certificate, "elsewhere", "127.0.0.2")
    with tls_in_front(app_under_test, certificate) as (_, variables):
        [found] = run_python(folder, PING, variables)
    wanted = "certificate verify failed: IP address mismatch"
    if PINNED:
        wanted = "reached"
    assert wanted in found, f"For another host's certificate, {wanted!r} should be in: {found}"


def test_a_url_must_say_how_strict_tls_is():
    for wanted in ("?ssl_cert_reqs=required", ""):
        url = f"rediss://127.0.0.1:1/0{wanted}"
        app = Celery(broker=url, backend=url, set_as_current=False)
        if wanted:
            assert app.backend, "A URL with ssl_cert_reqs should be accepted."
            continue
        with assert_raises(ValueError, f"{url} should be refused"):
            print(app.backend)


def count_commands(redis):
    return redis.info()["total_commands_processed"]


def test_what_a_task_costs_redis(worker, app, redis):
    """These are the figures of the lesson's table."""
    add_request = app.tasks[ADD]
    count = 200
    assert_result("add_request.delay(4, 4)", add_request.delay(4, 4), 8)
    before = count_commands(redis)
    results = [add_request.delay(number, number) for number in range(count)]
    wait_until(lambda: not redis.llen("celery") and not redis.hlen("unacked"), 60)
    commands = (count_commands(redis) - before) / count
    assert 14 < commands < 21, (
        f"An addition should cost Redis about 17 commands, but it costs {commands}."
    )
    size = redis.execute_command("MEMORY", "USAGE", f"celery-task-meta-{results[0].id}")
    assert 200 < size < 350, f"A result should have about 270 bytes, but it has {size}."


@no_worker
def test_what_a_waiting_message_costs_redis(app, app_under_test):
    redis = app_under_test.broker.client
    for number in range(100):
        app.tasks[ADD].delay(number, number)
    size = redis.execute_command("MEMORY", "USAGE", "celery", "SAMPLES", "0") / 100
    assert 800 < size < 1100, (
        f"A message that waits should have about 900 bytes, but it has {size}."
    )


@pytest.mark.isolated(server=True, args=["-c", "2"])
def test_what_a_worker_costs_redis(worker, app, app_under_test):
    """With mingle and gossip, as by default, an idle worker has ten connections.

    Each process or thread opens another with its first result.
    """
    redis = app_under_test.broker.client

    def count_connections():
        return len(redis.client_list()) - 1  # without the test's own

    wait_until(lambda: count_connections() == 10)
    found = count_connections()
    assert found == 10, f"An idle worker should have 10 connections, but it has {found}."
    with stopped(worker):
        for number in range(20):
            app.tasks[ADD].delay(number, number)
        wanted = count_connections() + 2
    wait_until(lambda: count_connections() == wanted)
    more = count_connections() - wanted + 2
    assert more == 2, f"Two processes should open 2 more for their results, but open {more}."


@pytest.mark.isolated(server=True, count=0)
def test_a_full_redis(app, app_under_test):
    """It refuses a task, and its workers die one after the other until it has more memory.

    The first had taken a message, which is lost.
    """
    redis = app_under_test.broker.client
    first = wait_until_ready(app_under_test.add_worker(ALONE))
    with stopped(first):
        results = [app.tasks[ADD].delay(number, number) for number in range(50)]
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", 1)
    sentence = "apply_async should raise OperationalError when Redis has no memory left"
    with assert_raises(OperationalError, sentence):
        app.tasks[ADD].apply_async((4, 4), retry=False)
    for worker in first, app_under_test.add_worker(ALONE):
        assert wait_until(lambda worker=worker: worker.status == "exited", WARM_STOP), (
            f"A worker should end when Redis is full, but it goes on:\n{worker.logs()}"
        )
        for text in ("Unrecoverable error", "maxmemory"):
            assert text in worker.logs(), f"The worker should log {text!r}:\n{worker.logs()}"
    left = redis.llen("celery") + redis.hlen("unacked")
    assert left < 50, "The first worker should have lost a message, but all 50 are left."
    redis.config_set("maxmemory", 0)
    app_under_test.add_worker(ALONE)

    def count_done():
        states = [app.backend.get_task_meta(result.id)["status"] for result in results]
        return states.count("SUCCESS")

    # Each death may lose the message that the worker had just taken.
    assert wait_until(lambda: count_done() >= 48, 60), (
        f"With more memory, a worker should run at least 48 of 50 tasks, but it ran {count_done()}."
    )


@pytest.mark.isolated(server=True, count=0)
def test_a_policy_that_evicts(app, app_under_test):
    """It throws a whole queue away, because a queue is one key."""
    redis = app_under_test.broker.client
    for number in range(200):
        app.tasks[ADD].delay(number, number)
    redis.config_set("maxmemory-policy", "allkeys-lru")
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] - 100_000)
    redis.set("another", "key")
    left = redis.llen("celery")
    assert left == 0, f"allkeys-lru should have evicted the queue, but {left} messages are left."
