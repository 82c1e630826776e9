"""Chapter 14: the settings and the compose.yml of a server.

What a stop does is in test_14_stopping.py.
"""

import json
import re
import subprocess

import pytest
import yaml
from kombu.exceptions import OperationalError
from support.assertions import assert_raises, assert_result, suggest_setting
from support.carried import assert_carried_settings, assert_carried_tasks
from support.commands import run_celery
from support.names import ADD, ALONE

from course.chapters import find_folder
from course.environment import PROGRAMS, environment
from course.waiting import wait_until

no_worker = pytest.mark.isolated(count=0)
PRINT_URLS = """
import json
from tasks.celery import app
print(json.dumps([app.conf.broker_url, app.conf.result_backend]))
"""


# What a service's command runs, and what the tests call such a service.
PROGRAMS_OF_SERVICES = [
    (r"\bcelery\b.* worker\b", "worker"),
    (r"\bcelery\b.* beat\b", "beat"),
    (r"\bflower\b", "flower"),
    (r"\buvicorn\b", "page"),
    (r"\bredis-server\b", "Redis"),
]
SECONDS_OF_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "us": 0.000001}


class Service:
    """A service of compose.yml: its name, what it is given, its command, and its kind."""

    def __init__(self, name, given):
        self.name = name
        self.given = given
        self.command = command_text(given.get("command") or "")
        self.kind = self.find_kind()

    def find_kind(self):
        """Return which part of the app this is, or ""."""
        for pattern, kind in PROGRAMS_OF_SERVICES:
            if re.search(pattern, self.command, re.DOTALL):
                return kind
        if str(self.given.get("image", "")).startswith("redis"):
            return "Redis"
        return ""

    def option(self, *names):
        """Return the value of an option of the command, under one of its names, or None."""
        any_name = "|".join(names)
        values = re.findall(rf"(?:^|\s)(?:{any_name})(?:\s+|=|(?<=-\w))([^\s-]\S*)", self.command)
        if not values:
            return None
        return values[-1]

    def queues(self, queues):
        """Return those of the app's queues that a worker consumes from."""
        only = self.option("-Q", "--queues")
        if only:
            return only.split(",")
        excluded = (self.option("-X", "--exclude-queues") or "").split(",")
        return [queue for queue in queues if queue not in excluded]

    def container_count(self):
        deploy = self.given.get("deploy") or {}
        return self.given.get("scale", deploy.get("replicas", 1))

    def has_restart_policy(self):
        return str(self.given.get("restart", "no")) not in ("no", "False")

    def health_check(self):
        """Return the command of the health check, or None."""
        command = (self.given.get("healthcheck") or {}).get("test")
        if command in (None, [], "NONE", ["NONE"]):
            return None
        return command

    def has_memory_limit(self):
        return bool(self.given.get("mem_limit")) or "memory" in str(self.given.get("deploy"))

    def stop_grace_period(self):
        """Return how many seconds a stop waits."""
        return parse_duration(self.given.get("stop_grace_period", "10s"))

    def user(self, folder):
        """Return the user that the service runs as, from compose.yml or its Dockerfile, or ""."""
        user = str(self.given.get("user") or "")
        build = self.given.get("build")
        if user or not build:
            return user
        if isinstance(build, str):
            build = {"context": build}
        path = folder / build.get("context", ".") / build.get("dockerfile", "Dockerfile")
        assert path.is_file(), (
            f"{self.name} should be built from a Dockerfile, but {build} leads to none."
        )
        last_stage = re.split(r"^FROM ", path.read_text(), flags=re.MULTILINE)[-1]
        users = re.findall(r"^USER\s+(\S+)", last_stage, re.MULTILINE)
        if not users:
            return ""
        return users[-1]


def command_text(command):
    """Return a command of compose.yml, a text or a list, as text."""
    if isinstance(command, str):
        return command
    return " ".join(map(str, command))


def parse_duration(text):
    """Return a duration of compose, such as 1m30s, in seconds."""
    seconds = 0
    for number, unit in re.findall(r"([\d.]+)(ms|us|[hms])", str(text)):
        seconds += float(number) * SECONDS_OF_UNITS[unit]
    return seconds


def host_of(port):
    """Return the address that an entry of `ports` is published on."""
    if isinstance(port, dict):
        return str(port.get("host_ip"))
    return str(port).rpartition(":")[0]


def read_services(path):
    """Return the services of a compose.yml, with the default values of its variables, or fail."""
    assert path.is_file(), f"There should be a file compose.yml, but {path.parent.name} has none."
    text = re.sub(r"\$\{\w+(?::?-([^}]*))?\}", default_value, path.read_text())
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise AssertionError(f"compose.yml should be YAML, but it isn't: {reason}") from None
    given = None
    if isinstance(content, dict):
        given = content.get("services")
    assert isinstance(given, dict), "compose.yml should have services, but it has none."
    services = []
    for name, options in given.items():
        if not isinstance(options, dict):
            options = {}
        services.append(Service(name, options))
    return services


def default_value(variable):
    return variable[1] or ""


@pytest.fixture(scope="module")
def services(number):
    """The services of compose.yml."""
    return read_services(find_folder(number) / "compose.yml")


def own_tasks(app):
    """Return the names of the app's tasks, without Celery's own."""
    return sorted(name for name in app.tasks if name.startswith("tasks."))


def workers(services):
    """Return the services that are workers, or fail if there are none."""
    found = [service for service in services if service.kind == "worker"]
    assert found, (
        "compose.yml should have a service whose command is a `celery -A tasks worker`,"
        " but it has none."
    )
    return found


def assert_all(services, sentence, condition):
    """Fail with this sentence and the names of the services that don't meet the condition."""
    wrong = [service.name for service in services if not condition(service)]
    assert not wrong, f"{sentence}: {', '.join(wrong)}."


def hard_limit(app, name):
    return app.tasks[name].time_limit or app.conf.task_time_limit


def longest_limit(app):
    """Return the longest time that a task of the app may take, in seconds, or fail."""
    limits = []
    for name in own_tasks(app):
        limit = hard_limit(app, name)
        assert limit, f"Every task should have a hard time limit, but {name} has none."
        limits.append(limit)
    return max(limits)


def test_lesson(request, lesson):
    if request.config.option.docker:
        pytest.skip("the lesson sends signals to processes of this machine: make test")
    lesson.holds()


@pytest.mark.step(
    "`REDIS_HOST` and `REDIS_PASSWORD_FILE` say where Redis is, and which file has its password",
    "limits-for-everything",
)
def test_the_environment_names_redis(folder, tmp_path):
    """celeryconfig.py is Python: a function may read os.environ and the file, without its last
    line's end."""
    secret = tmp_path / "password"
    secret.write_text("swordfish\n")
    variables = {"REDIS_HOST": "redis.example", "REDIS_PASSWORD_FILE": str(secret)}
    assert_urls(folder, variables, "redis://:swordfish@redis.example:6379/0")
    assert_urls(folder, {}, "redis://127.0.0.1:6379/0")


def assert_urls(folder, variables, wanted):
    """Fail unless, with these variables, the broker and the result backend have this URL."""
    done = subprocess.run(
        [PROGRAMS / "python", "-c", PRINT_URLS],
        cwd=folder,
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    names = " and ".join(variables) or "neither variable"
    output = (done.stdout or done.stderr or "nothing").strip()
    last_line = output.splitlines()[-1]
    assert done.returncode == 0 and json.loads(last_line) == [wanted, wanted], (
        f"With {names}, broker_url and result_backend should both be {wanted}, but the settings"
        f" are: {last_line}"
    )


@no_worker
@pytest.mark.step(
    "every task has a soft time limit, and a hard one above it", "limits-for-everything"
)
def test_every_task_has_limits(app):
    """task_soft_time_limit and task_time_limit in celeryconfig.py are for all tasks that have none
    of their own."""
    for name in own_tasks(app):
        hard = hard_limit(app, name)
        assert hard, f"Every task should have a hard time limit, but {name} has none."
        soft = app.tasks[name].soft_time_limit or app.conf.task_soft_time_limit
        assert soft and soft < hard, (
            f"{name} should have a soft limit below its hard one, {hard}, but it is {soft}."
        )


@no_worker
@pytest.mark.step(
    "a message is handed out again after all that a process may hold could have run, and within"
    " ten minutes",
    "limits-for-everything",
)
def test_the_visibility_timeout_fits_the_limits(app):
    """A worker holds worker_prefetch_multiplier messages for each process, and each may take as
    long as the limit."""
    found = app.conf.broker_transport_options.get("visibility_timeout", 3600)
    held = app.conf.worker_prefetch_multiplier
    longest = longest_limit(app)
    assert held * longest < found <= 600, (
        f"visibility_timeout should be above {held} × {longest} seconds, and at most 600,"
        f" but it is {found}."
    )


@no_worker
@pytest.mark.step(
    "a process is replaced after a number of tasks, and above some memory", "new-processes-for-old"
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
    "`compose.yml` has Redis, a worker for each queue, beat, the page's server and Flower",
    "the-whole-app-in-containers",
)
def test_the_services_are_there(app, services):
    """A service's command says what it is. A worker takes from the queues of its -Q, or from all
    but those of -X."""
    kinds = [service.kind for service in services]
    for kind in "Redis", "worker", "beat", "page", "flower":
        assert kind in kinds, (
            f"compose.yml should have Redis, a worker, beat, the page and flower, but {kind} is"
            " missing."
        )
    queues = app.conf.task_queues
    consumed = []
    for worker in workers(services):
        consumed += worker.queues(queues)
    for queue in queues:
        assert queue in consumed, (
            f"A worker of compose.yml should consume from the queue {queue}, but none does."
        )
    beats = [service.name for service in services if service.kind == "beat"]
    assert len(beats) == 1, (
        f"There should be one beat, but there are {len(beats)}: {', '.join(beats)}."
    )


@no_worker
@pytest.mark.step("a single process takes from `ledger`", "the-whole-app-in-containers")
def test_the_ledger_has_one_writer(app, services):
    """-Q ledger -c 1 for one service, and -X ledger for the other. A worker of its own has one
    container."""
    queues = app.conf.task_queues
    writers = [worker for worker in workers(services) if "ledger" in worker.queues(queues)]
    names = ", ".join(worker.name for worker in writers)
    assert len(writers) == 1, (
        f"One service should consume from the queue ledger, but {len(writers)} do: {names}."
    )
    [writer] = writers
    processes = writer.option("-c", "--concurrency")
    assert processes == "1", (
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


@pytest.mark.step(
    "each service has a restart policy, a health check and a limit on memory",
    "the-whole-app-in-containers",
)
def test_each_service_is_looked_after(services):
    """restart, healthcheck and mem_limit. An anchor, x-app: &app, and <<: *app say it once for
    all."""
    sentence = "Every service should have a restart policy, but it is missing in"
    assert_all(services, sentence, lambda service: service.has_restart_policy())
    sentence = "Every service should have a health check, but it is missing in"
    assert_all(services, sentence, lambda service: service.health_check())
    sentence = "Every service should have a limit on memory, but it is missing in"
    assert_all(services, sentence, lambda service: service.has_memory_limit())


def asks_itself(worker):
    """Return whether a worker's health check pings one worker alone."""
    pattern = r"inspect\W+ping\b.*\s(-d|--destination)\b"
    return re.search(pattern, str(worker.health_check()))


@no_worker
@pytest.mark.step(
    "a worker's health check asks that worker alone, and a stop waits longer than a task may take",
    "the-whole-app-in-containers",
)
def test_workers_are_asked_and_waited_for(app, services):
    """celery -A tasks inspect ping --destination celery@$$HOSTNAME. stop_grace_period is ten
    seconds unless you set it."""
    sentence = "The health check should be `inspect ping` with --destination, but it isn't in"
    assert_all(workers(services), sentence, asks_itself)
    longest = longest_limit(app)

    def waits_for_the_longest(worker):
        return worker.stop_grace_period() > longest

    sentence = f"stop_grace_period should be above {longest} s, the longest task, but it isn't in"
    assert_all(workers(services), sentence, waits_for_the_longest)


@pytest.mark.step(
    "only the page and Flower are published, on 127.0.0.1", "the-whole-app-in-containers"
)
def test_what_is_published(services):
    """ports: ["127.0.0.1:8000:8000"]. Without the address, the port is open to the network."""
    for service in services:
        ports = service.given.get("ports") or []
        if service.kind in ("page", "flower"):
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
    "Redis wants a password, which all get as a secret", "the-whole-app-in-containers"
)
def test_the_password_is_a_secret(services):
    """secrets: [redis_password] in each service; Redis reads the file for its requirepass."""
    sentence = "Every service should be given the secret, but it is missing in"
    assert_all(services, sentence, lambda service: service.given.get("secrets"))
    for service in services:
        if service.kind == "Redis":
            assert_requires_password(service)
            continue
        variables = str(service.given.get("environment", ""))
        assert "REDIS_PASSWORD_FILE" in variables and "/run/secrets/" in variables, (
            f"{service.name} should have REDIS_PASSWORD_FILE in its environment, a file of"
            f" /run/secrets, but its environment is {variables or 'empty'}."
        )


@pytest.mark.step("no service runs as root", "the-whole-app-in-containers")
def test_who_runs(number, services):
    """USER in the Dockerfile, after its last FROM, or user: in the service."""
    for service in services:
        user = service.user(find_folder(number))
        assert user and user.partition(":")[0] not in ("root", "0"), (
            f"{service.name} should not run as root, but its user is {user or 'not set'}."
        )


@no_worker
@pytest.mark.step(
    "the tasks and the settings of chapter 13 are still there", "limits-for-everything"
)
def test_what_chapter_13_had(app, number):
    """Nothing else changes in this chapter."""
    assert_carried_tasks(app, number)
    assert_carried_settings(app, number)


# What follows is about Celery itself, and about the machine.


@pytest.mark.isolated(
    slow_tasks=True, args=["-c", "1", *ALONE], settings={"worker_max_memory_per_child": 1000}
)
def test_a_process_with_too_much_memory_is_replaced_after_its_task(worker, app):
    what = "A task in a process with too much memory"
    for number in range(2):
        assert_result(what, app.tasks["slow.nap"].delay(0, number), number)
    second = "ForkPoolWorker-2] Task"
    wait_until(lambda: second in worker.logs(), 5)
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
        [stats] = app.control.inspect(timeout=10, limit=1).stats().values()
        return len(stats["pool"]["processes"])

    results = [app.tasks["slow.nap"].delay(1) for _ in range(3)]
    assert wait_until(lambda: count_processes() == 3, 5), (
        f"Three tasks should make three processes, but there are {count_processes()}."
    )
    for result in results:
        assert_result("slow.nap", result, None)
    # The pool counts a process that has ended until its next check, and would end it again
    # instead of another.
    assert wait_until(lambda: count_processes() == 1, 30), (
        f"An idle worker should keep one process, but it keeps {count_processes()}."
    )


def test_inspect_ping_with_a_destination_asks_one_worker(worker, app_under_test):
    ping = ["inspect", "ping", "--timeout", "1"]
    status, _ = run_celery(app_under_test, *ping)
    assert status == 0, f"inspect ping should exit with 0, but it exited with {status}."
    status, _ = run_celery(app_under_test, *ping, "--destination", "celery@gone")
    assert status == 69, (
        "inspect ping should exit with 69 for a worker that isn't there, but it exited with"
        f" {status}."
    )


def count_commands(redis):
    return redis.info()["total_commands_processed"]


def test_what_a_task_costs_redis(worker, app, redis):
    """These are the figures of the lesson's table."""
    add_request = app.tasks[ADD]
    count = 200
    assert_result("add_request.delay(4, 4)", add_request.delay(4, 4), 8)
    before = count_commands(redis)
    results = [add_request.delay(number, number) for number in range(count)]
    wait_until(lambda: not redis.llen("celery") and not redis.hlen("unacked"), 30)
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


@pytest.mark.isolated(server=True)
def test_what_a_worker_costs_redis(worker, app_under_test):
    """It has six connections, and each process opens another with its first result."""
    redis = app_under_test.broker.client

    def count_connections():
        return len(redis.client_list()) - 1  # without the test's own

    wait_until(lambda: count_connections() >= 6, 5)
    found = count_connections()
    assert found == 6, f"An idle worker should have 6 connections, but it has {found}."


@pytest.mark.isolated(server=True, count=0)
def test_a_full_redis_refuses_a_task(app, app_under_test):
    app_under_test.broker.client.config_set("maxmemory", 1)
    sentence = "apply_async should raise OperationalError when Redis has no memory left"
    with assert_raises(OperationalError, sentence):
        app.tasks[ADD].apply_async((4, 4), retry=False)
