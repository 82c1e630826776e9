"""Chapter 12: the settings and the compose.yml of a server. What a stop does is in test_12_stopping.py."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from kombu.exceptions import OperationalError
from support.assertions import assert_raises, assert_result, assert_setting

from course.chapters import find_folder
from course.environment import PROGRAMS, environment
from course.waiting import wait_until

MATH = ["add", "sub", "mul", "divide", "xsum"]
TASKS = [
    "tasks.ledger.enter_request",
    "tasks.ledger.interest_request",
    *(f"tasks.math.{name}_request" for name in MATH),
]
# A step needs no worker.
settings = pytest.mark.isolated(count=0)


class Service:
    """A service of compose.yml: what it is given, and what it runs."""

    def __init__(self, name, given):
        self.name, self.given = name, given
        command = given.get("command") or ""
        self.command = command if isinstance(command, str) else " ".join(map(str, command))
        programs = {
            "worker": r"\bcelery\b.* worker\b",
            "beat": r"\bcelery\b.* beat\b",
            "flower": r"\bflower\b",
        }
        programs |= {"page": r"\buvicorn\b", "Redis": r"\bredis-server\b"}
        self.kind = next(
            (kind for kind, words in programs.items() if re.search(words, self.command, re.DOTALL)),
            "",
        )
        if not self.kind and str(given.get("image", "")).startswith("redis"):
            self.kind = "Redis"

    def option(self, *names):
        """Return what an option of the command is set to, or None."""
        found = re.findall(
            rf"(?:^|\s)(?:{'|'.join(names)})(?:\s+|=|(?<=-\w))([^\s-]\S*)", self.command
        )
        return found[-1] if found else None

    def queues(self, all):
        """Return the queues that a worker takes from."""
        if only := self.option("-Q", "--queues"):
            return only.split(",")
        left = (self.option("-X", "--exclude-queues") or "").split(",")
        return [queue for queue in all if queue not in left]


@pytest.fixture(scope="module")
def services(number):
    """The services of compose.yml, with the default values of its variables."""
    path = find_folder(number) / "compose.yml"
    assert path.is_file(), f"There should be a file compose.yml; {path.parent.name} has none."
    text = re.sub(r"\$\{\w+(?::?-([^}]*))?\}", lambda found: found[1] or "", path.read_text())
    try:
        found = yaml.safe_load(text)["services"]
        return [
            Service(name, given if isinstance(given, dict) else {}) for name, given in found.items()
        ]
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
    except (TypeError, KeyError, AttributeError):
        what = "it has no services"
    raise AssertionError(f"compose.yml should be YAML with services in it: {what}")


def own_tasks(app):
    """Return the names of the app's tasks, without Celery's own."""
    return sorted(name for name in app.tasks if name.startswith("tasks."))


def workers(services):
    """Return the services that are workers; fail where there is none."""
    found = [each for each in services if each.kind == "worker"]
    assert found, (
        "compose.yml should have a service whose command is a `celery -A tasks worker`, and has none."
    )
    return found


def without(services, given):
    """Return the names of services that lack something, as text."""
    return ", ".join(each.name for each in services if not given(each.given))


def seconds(text):
    """Return a duration of compose, such as 1m30s, in seconds."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "us": 0.000001}
    return sum(
        float(number) * units[unit]
        for number, unit in re.findall(r"([\d.]+)(ms|us|[hms])", str(text))
    )


def limit(app):
    """Return the longest time that a task of the app may take."""
    limits = {
        name: app.tasks[name].time_limit or app.conf.task_time_limit for name in own_tasks(app)
    }
    unlimited = [name for name, found in limits.items() if not found]
    assert not unlimited, (
        f"Every task should have a hard time limit; {', '.join(unlimited)} has none."
    )
    return max(limits.values())


def test_lesson(request, lesson):
    if request.config.option.docker:
        pytest.skip("the lesson sends signals to processes of this machine: make test")
    lesson.holds()


@pytest.mark.step(
    "`REDIS_HOST` and `REDIS_PASSWORD_FILE` say where Redis is, and which file has its password",
    "limits-for-everything",
)
def test_the_environment_names_redis(folder, tmp_path):
    """celeryconfig.py is Python: a function may read os.environ and the file, without its last line's end."""
    secret = tmp_path / "password"
    secret.write_text("swordfish\n")
    show = "import json; from tasks.celery import app; print(json.dumps([app.conf.broker_url, app.conf.result_backend]))"
    given = {"REDIS_HOST": "redis.example", "REDIS_PASSWORD_FILE": str(secret)}
    for env, wanted in (
        (given, "redis://:swordfish@redis.example:6379/0"),
        ({}, "redis://127.0.0.1:6379/0"),
    ):
        command = [PROGRAMS / "python", "-c", show]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment() | env,
            capture_output=True,
            text=True,
            check=False,
        )
        said = (done.stdout or done.stderr or "nothing").strip().splitlines()[-1]
        found = json.loads(said) if not done.returncode else said
        names = " and ".join(env) or "neither variable"
        assert found == [wanted] * 2, (
            f"With {names}, broker_url and result_backend should both be {wanted}, and this was found: {found}"
        )


@settings
@pytest.mark.step(
    "every task has a soft time limit, and a hard one above it", "limits-for-everything"
)
def test_every_task_has_limits(app):
    """task_soft_time_limit and task_time_limit in celeryconfig.py are for all tasks that have none of their own."""
    limit(app)
    for name in own_tasks(app):
        soft = app.tasks[name].soft_time_limit or app.conf.task_soft_time_limit
        hard = app.tasks[name].time_limit or app.conf.task_time_limit
        assert soft and soft < hard, (
            f"{name} should have a soft limit below its hard one, {hard}; it is {soft}."
        )


@settings
@pytest.mark.step(
    "a message is handed out again after all that a process may hold could have run, and within ten minutes",
    "limits-for-everything",
)
def test_the_visibility_timeout_fits_the_limits(app):
    """A worker holds worker_prefetch_multiplier messages for each process, and each may take as long as the limit."""
    found = app.conf.broker_transport_options.get("visibility_timeout", 3600)
    held, longest = app.conf.worker_prefetch_multiplier, limit(app)
    assert held * longest < found <= 600, (
        f"visibility_timeout should be above {held} × {longest} seconds, and at most 600; it is {found}."
    )


@settings
@pytest.mark.step(
    "a process is replaced after a number of tasks, and above some memory", "new-processes-for-old"
)
def test_processes_are_replaced(app):
    """worker_max_tasks_per_child, and worker_max_memory_per_child in KiB: an empty process has some 40,000."""
    for name, least in ("worker_max_tasks_per_child", 1), ("worker_max_memory_per_child", 60_000):
        found = app.conf.get(name)
        assert found, f"The app's configuration should set {name}."
        assert found >= least, (
            f"{name} should be at least {least:,}, or each task gets a new process; it is {found}."
        )


@settings
@pytest.mark.step(
    "`compose.yml` has Redis, a worker for each queue, beat, the page's server and Flower",
    "the-whole-app-in-containers",
)
def test_the_services_are_there(app, services):
    """A service's command says what it is. A worker takes from the queues of its -Q, or from all but those of -X."""
    kinds = {each.kind for each in services}
    missing = [kind for kind in ("Redis", "worker", "beat", "page", "flower") if kind not in kinds]
    assert not missing, (
        f"compose.yml should have services for all parts; missing: {', '.join(missing)}."
    )
    taken = [queue for each in workers(services) for queue in each.queues(app.conf.task_queues)]
    for queue in app.conf.task_queues:
        assert queue in taken, (
            f"A worker of compose.yml should take from the queue {queue}, and none does."
        )
    beats = [each.name for each in services if each.kind == "beat"]
    assert len(beats) == 1, f"There should be one beat, there are {len(beats)}: {', '.join(beats)}."


@settings
@pytest.mark.step("a single process takes from `ledger`", "the-whole-app-in-containers")
def test_the_ledger_has_one_writer(app, services):
    """-Q ledger -c 1 for one service, and -X ledger for the other. A worker of its own has one container."""
    found = [each for each in workers(services) if "ledger" in each.queues(app.conf.task_queues)]
    names = ", ".join(each.name for each in found)
    assert len(found) == 1, (
        f"One service should take from the queue ledger, {len(found)} do: {names}."
    )
    [writer] = found
    processes = writer.option("-c", "--concurrency")
    assert processes == "1" and not writer.option("--autoscale"), (
        f"The service {names} should have one process, -c 1; its -c is {processes}."
    )
    containers = writer.given.get("scale", (writer.given.get("deploy") or {}).get("replicas", 1))
    assert containers == 1, f"The service {names} should have one container, it has {containers}."


@pytest.mark.step(
    "each service has a restart policy, a health check and a limit on memory",
    "the-whole-app-in-containers",
)
def test_each_service_is_looked_after(services):
    """restart, healthcheck and mem_limit. An anchor, x-app: &app, and <<: *app say it once for all."""
    wanted = {
        "a restart policy": lambda given: str(given.get("restart", "no")) not in ("no", "False"),
        "a health check": lambda given: (
            (given.get("healthcheck") or {}).get("test") not in (None, [], "NONE", ["NONE"])
        ),
        "a limit on memory": lambda given: (
            given.get("mem_limit") or "memory" in str(given.get("deploy"))
        ),
    }
    for what, given in wanted.items():
        missing = without(services, given)
        assert not missing, f"Every service should have {what}; it is missing in: {missing}."


@settings
@pytest.mark.step(
    "a worker's health check asks that worker alone, and a stop waits longer than a task may take",
    "the-whole-app-in-containers",
)
def test_workers_are_asked_and_waited_for(app, services):
    """celery -A tasks inspect ping --destination celery@$$HOSTNAME. stop_grace_period is ten seconds unless you set it."""
    found, longest = workers(services), limit(app)
    asks = r"inspect\W+ping\b.*\s(-d|--destination)\b"
    missing = without(found, lambda given: re.search(asks, str(given["healthcheck"]["test"])))
    assert not missing, (
        f"The health check should be `inspect ping` with --destination; it isn't in: {missing}."
    )
    missing = without(found, lambda given: seconds(given.get("stop_grace_period", "10s")) > longest)
    assert not missing, (
        f"stop_grace_period should be above {longest} s, the longest task; it isn't in: {missing}."
    )


@pytest.mark.step(
    "only the page and Flower are published, on 127.0.0.1", "the-whole-app-in-containers"
)
def test_what_is_published(services):
    """ports: ["127.0.0.1:8000:8000"]. Without the address, the port is open to the network."""
    for each in services:
        ports = each.given.get("ports") or []
        wanted = each.kind in ("page", "flower")
        assert bool(ports) == wanted, (
            f"{each.name} should {'' if wanted else 'not '}publish a port; it has {ports}."
        )
        for port in ports:
            host = port.get("host_ip") if isinstance(port, dict) else str(port).rpartition(":")[0]
            assert str(host).startswith("127.0.0.1"), (
                f"{each.name} should publish on 127.0.0.1, it has {port}."
            )
        assert each.given.get("network_mode") != "host", (
            f"{each.name} should not be in the network of the host."
        )


@pytest.mark.step(
    "Redis wants a password, which all get as a secret", "the-whole-app-in-containers"
)
def test_the_password_is_a_secret(services):
    """secrets: [redis_password] in each service; Redis reads the file for its requirepass."""
    missing = without(services, lambda given: given.get("secrets"))
    assert not missing, f"Every service should be given the secret; it is missing in: {missing}."
    for each in services:
        variables = str(each.given.get("environment", ""))
        if each.kind == "Redis":
            asked = re.search(
                r"(requirepass|aclfile)\W+(\S+)", each.command + str(each.given.get("volumes", ""))
            )
            assert asked, (
                f"{each.name} should want a password, requirepass; its command says: {each.command}"
            )
            assert re.match(r"\$|/", asked[2]) or "cat" in asked[2], (
                f"{each.name} should read the password from the secret, and has {asked[2]!r} in compose.yml."
            )
        else:
            assert "REDIS_PASSWORD_FILE" in variables and "/run/secrets/" in variables, (
                f"{each.name} should have REDIS_PASSWORD_FILE in its environment, a file of /run/secrets."
            )


@pytest.mark.step("no service runs as root", "the-whole-app-in-containers")
def test_who_runs(number, services):
    """USER in the Dockerfile, after its last FROM, or user: in the service."""
    for each in services:
        user = str(each.given.get("user") or "")
        if not user and (build := each.given.get("build")):
            build = {"context": build} if isinstance(build, str) else build
            context = find_folder(number) / build.get("context", ".")
            path = context / build.get("dockerfile", "Dockerfile")
            assert path.is_file(), (
                f"{each.name} should be built from a Dockerfile, and {build} leads to none."
            )
            stage = re.split(r"^FROM ", path.read_text(), flags=re.MULTILINE)[-1]
            user = ([""] + re.findall(r"^USER\s+(\S+)", stage, re.MULTILINE))[-1]
        assert user and user.partition(":")[0] not in ("root", "0"), (
            f"{each.name} should not run as root."
        )


@settings
@pytest.mark.step(
    "the tasks and the settings of chapter 11 are still there", "limits-for-everything"
)
def test_what_chapter_11_had(app):
    """Nothing else changes in this chapter."""
    missing = set(TASKS) - set(own_tasks(app))
    assert not missing, (
        f"There should be the tasks of chapter 11, and these are missing: {sorted(missing)}."
    )
    for name in ("task_acks_late", "task_reject_on_worker_lost"):
        assert_setting(app, name, True)
    assert_setting(app, "result_expires", 3600)
    found = app.amqp.router.route({}, TASKS[0])["queue"].name
    assert found == "ledger", f"enter_request should go into the queue ledger, not into {found}."
    assert "interest" in app.conf.beat_schedule, "beat should send the interest, as in chapter 8."


# What follows is about Celery itself, and about the machine.

ONE = ["-c", "1", "--without-mingle", "--without-gossip"]


@pytest.mark.isolated(slow_tasks=True, args=ONE, settings={"worker_max_memory_per_child": 1000})
def test_a_process_with_too_much_memory_is_replaced_after_its_task(worker, app):
    for number in range(2):
        assert_result(
            "A task in a process with too much memory",
            app.tasks["slow.nap"].delay(0, number),
            number,
        )
    wait_until(lambda: "ForkPoolWorker-2] Task" in worker.logs(), 5)
    assert "ForkPoolWorker-2] Task" in worker.logs(), (
        "The second task should run in a new process, and doesn't."
    )


@pytest.mark.isolated(
    slow_tasks=True,
    args=["--autoscale=3,1"],
    env={"AUTOSCALE_KEEPALIVE": "1", "SLOW_TASKS_LOOK": "0.2"},
)
def test_autoscale_goes_down_too(worker, app):
    def processes():
        [stats] = app.control.inspect(timeout=10, limit=1).stats().values()
        return len(stats["pool"]["processes"])

    results = [app.tasks["slow.nap"].delay(1) for _ in range(3)]
    assert wait_until(lambda: processes() == 3, 5), (
        f"Three tasks should have three processes; there are {processes()}."
    )
    for result in results:
        assert_result("slow.nap", result, None)
    # A pool counts an ended process until its next look, and would end it again in another's place.
    assert wait_until(lambda: processes() == 1, 30), (
        f"Idle, one should be left; there are {processes()}."
    )


def test_inspect_ping_with_a_destination_asks_one_worker(worker, app_under_test):
    ping = [PROGRAMS / "celery", "-A", "tasks", "inspect", "ping", "--timeout", "1"]
    at = {"cwd": app_under_test.folder, "env": app_under_test.env, "capture_output": True}
    any_, another = (
        subprocess.run([*ping, *more], **at, check=False).returncode
        for more in ([], ["--destination", "celery@gone"])
    )
    assert (any_, another) == (0, 69), (
        f"inspect ping should end with 0, for a worker that is gone with 69: {any_}, {another}."
    )


def test_the_units_are_right(tmp_path):
    """As systemd sees them, with a program that is here in the place of the server's."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    units = []
    for path in (find_folder("12") / "systemd").iterdir():
        units.append(tmp_path / path.name.replace("@", "@ledger"))
        units[-1].write_text(re.sub(r"/opt/sums/venv/bin/\w+", "/bin/true", path.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "celery" in line]
    assert len(units) == 2 and not said, (
        f"systemd should find nothing wrong in the units, and said: {said}"
    )


def test_what_a_task_costs_redis(worker, app, redis):
    """The figures of the lesson's table."""
    add, count = app.tasks["tasks.math.add_request"], 200
    assert_result("add_request.delay(4, 4)", add.delay(4, 4), 8)
    before = redis.info()["total_commands_processed"]
    results = [add.delay(number, number) for number in range(count)]
    wait_until(lambda: not redis.llen("celery") and not redis.hlen("unacked"), 30)
    commands = (redis.info()["total_commands_processed"] - before) / count
    assert 14 < commands < 21, (
        f"An addition should cost Redis about 17 commands, it costs {commands}."
    )
    size = redis.execute_command("MEMORY", "USAGE", f"celery-task-meta-{results[0].id}")
    assert 200 < size < 350, f"A result should have about 270 bytes, it has {size}."


@settings
def test_what_a_waiting_message_costs_redis(app, app_under_test):
    redis = app_under_test.broker.client
    for number in range(100):
        app.tasks["tasks.math.add_request"].delay(number, number)
    size = redis.execute_command("MEMORY", "USAGE", "celery", "SAMPLES", "0") / 100
    assert 800 < size < 1100, f"A message that waits should have about 900 bytes, it has {size}."


@pytest.mark.isolated(server=True)
def test_what_a_worker_costs_redis(worker, app_under_test):
    """Six connections; each process opens its own with the first result."""
    redis = app_under_test.broker.client
    idle = wait_until(lambda: len(redis.client_list()) - 1 >= 6 and len(redis.client_list()) - 1, 5)
    assert idle == 6, f"A worker that has done nothing should have 6 connections, it has {idle}."


@pytest.mark.isolated(server=True, count=0)
def test_a_full_redis_refuses_a_task(app, app_under_test):
    app_under_test.broker.client.config_set("maxmemory", 1)
    with assert_raises(
        OperationalError, "delay should raise OperationalError where Redis has no memory left"
    ):
        app.tasks["tasks.math.add_request"].apply_async((4, 4), retry=False)
