"""A folder with a compose.yml, read and not run: its services, its Dockerfile, what an image gets.

Each function `assert_…` fails with a sentence that names what would keep the app from running.
"""

import re
from fnmatch import fnmatch
from pathlib import PurePosixPath

import yaml

from course.environment import PINNED

# What a service's command runs, and what the tests call such a service.
PROGRAMS_OF_SERVICES = [
    (r"\bcelery\b.* worker\b", "worker"),
    (r"\bcelery\b.* beat\b", "beat"),
    (r"\bflower\b", "Flower"),
    (r"\buvicorn\b", "page"),
    (r"\bbank\.py\b|\bbank\b", "bank"),
    (r"\bredis-server\b", "Redis"),
]
SECONDS_OF_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "us": 0.000001}
# Where each has files that a restart must not lose.
KEPT_FILES = {"beat": "its file of what it sent last", "page": "its records of the sums"}


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
        return int(self.given.get("scale", deploy.get("replicas", 1)))

    def has_restart_policy(self):
        return str(self.given.get("restart", "no")) not in ("no", "False")

    def health_check(self):
        """Return the command of the health check as text, or ""."""
        command = (self.given.get("healthcheck") or {}).get("test")
        if command in (None, [], "NONE", ["NONE"]):
            return ""
        return command_text(command)

    def has_memory_limit(self):
        resources = (self.given.get("deploy") or {}).get("resources") or {}
        limits = resources.get("limits") or {}
        return bool(self.given.get("mem_limit") or limits.get("memory"))

    def stop_grace_period(self):
        """Return how many seconds a stop waits."""
        return parse_duration(self.given.get("stop_grace_period", "10s"))

    def variables(self):
        """Return the environment of the service as text."""
        return str(self.given.get("environment") or "")

    def secrets(self):
        """Return the names of the secrets that the service is given."""
        names = []
        for secret in self.given.get("secrets") or []:
            if isinstance(secret, dict):
                secret = secret.get("source")
            names.append(secret)
        return names

    def mounts(self):
        """Return where the service has volumes and folders of the machine."""
        targets = []
        for volume in self.given.get("volumes") or []:
            if isinstance(volume, dict):
                targets.append(str(volume.get("target")))
            else:
                targets.append(f"{volume}:{volume}".split(":")[1])
        return targets


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


def default_value(variable):
    return variable[1] or ""


def read_yaml(path, text):
    """Return the content of a compose.yml that has this text, or fail."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise AssertionError(f"{path.name} should be YAML, but it isn't: {reason}") from None
    found = isinstance(content, dict) and isinstance(content.get("services"), dict)
    assert found, f"{path.name} should have services, but it has none."
    return content


class App:
    """A folder with a compose.yml and a Dockerfile, or a failure with a sentence."""

    def __init__(self, folder):
        self.folder = folder
        path = folder / "compose.yml"
        assert path.is_file(), f"There should be a file compose.yml, but {folder.name} has none."
        text = re.sub(r"(?<!\$)\$\{\w+(?::?-([^}]*))?\}", default_value, path.read_text())
        self.content = read_yaml(path, text)
        self.services = []
        for name, options in self.content["services"].items():
            self.services.append(Service(name, options or {}))

    def of_kind(self, kind):
        return [service for service in self.services if service.kind == kind]

    def workers(self):
        """Return the services that are workers, or fail if there are none."""
        found = self.of_kind("worker")
        assert found, (
            "compose.yml should have a service whose command is a `celery -A tasks worker`,"
            " but it has none."
        )
        return found

    def secret_files(self):
        """Return the paths of the files that are secrets, relative to the folder."""
        paths = []
        for secret in (self.content.get("secrets") or {}).values():
            if isinstance(secret, dict) and secret.get("file"):
                paths.append(str(PurePosixPath(secret["file"])))
        return paths

    def last_stage(self, service):
        """Return the lines of the last stage of a service's Dockerfile, each with its rest."""
        build = service.given["build"]
        if isinstance(build, str):
            build = {"context": build}
        path = self.folder / build.get("context", ".") / build.get("dockerfile", "Dockerfile")
        assert path.is_file(), (
            f"{service.name} should be built from a Dockerfile, but {build} leads to none."
        )
        text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
        text = text.replace("\\\n", " ")
        return re.split(r"^FROM ", text, flags=re.MULTILINE | re.IGNORECASE)[-1].splitlines()

    def instructions(self, service, *names):
        """Return what the last stage of a service's Dockerfile gives to these instructions."""
        if not service.given.get("build"):
            return []
        found = []
        for line in self.last_stage(service):
            name, _, rest = line.strip().partition(" ")
            if name.upper() in names:
                found.append(rest.strip())
        return found

    def user(self, service):
        """Return the user that the service runs as, from compose.yml or its Dockerfile, or ""."""
        user = service.given.get("user")
        if user:
            return str(user)
        users = self.instructions(service, "USER")
        if not users:
            return ""
        return users[-1]

    def working_folder(self, service):
        """Return the folder that the service runs in."""
        folder = PurePosixPath("/")
        for name in self.instructions(service, "WORKDIR"):
            folder /= name
        return folder / str(service.given.get("working_dir") or "")

    def keeps_its_folder(self, service):
        """Return whether the service runs in a volume."""
        folder = self.working_folder(service)
        return any(folder.is_relative_to(target) for target in service.mounts())


def assert_dollars(app):
    """Fail if a command has a single dollar sign, which compose takes for a variable of its own."""
    for service in app.services:
        for text in (service.command, service.health_check()):
            found = re.search(r"(?<!\$)(?:\$\$)*\$(\w+|\()", text)
            assert not found, (
                f"{service.name} should have $$ where its command or health check has {found[0]},"
                " because compose replaces what follows a single $ before the container sees it."
            )


def assert_files_are_kept(app, queues):
    """Fail unless the ledger, beat and the page run in a volume that their user may write to."""
    keepers = []
    for service in app.services:
        if service.kind == "worker" and "ledger" in service.queues(queues):
            keepers.append((service, "its file ledger.db"))
        elif service.kind in KEPT_FILES:
            keepers.append((service, KEPT_FILES[service.kind]))
    for service, what in keepers:
        folder = app.working_folder(service)
        assert app.keeps_its_folder(service), (
            f"{service.name} should have a volume at {folder}, where it runs, or a new container"
            f" begins without {what}; its volumes are at {service.mounts() or 'no place'}."
        )
        assert_may_write(app, service, folder)


def assert_may_write(app, service, folder):
    """Fail unless the image gives the user of a service its folder, so that a new volume is his."""
    user = app.user(service).partition(":")[0]
    for rest in app.instructions(service, "RUN", "COPY", "ADD"):
        is_named = re.search(rf"(^|[\s=\"']){re.escape(str(folder))}/?($|[\s\"';&])", rest)
        if is_named and re.search(r"chown|install|useradd|adduser|mkdir", rest):
            return
    raise AssertionError(
        f"{service.name} runs as {user} in {folder}, and can't write there: the Dockerfile should"
        f" make the folder his, as with `install -d -o {user} {folder}`."
    )


def assert_redis_is_asked_with_its_password(app):
    for service in app.of_kind("Redis"):
        text = service.health_check() + service.variables()
        is_plain = "redis-cli" in text and not re.search(r"REDISCLI_AUTH|\s-a\s|--pass|//:", text)
        assert not is_plain, (
            f"{service.name}'s health check should give redis-cli the password, because without it"
            " Redis answers NOAUTH, and redis-cli calls that a success."
        )


def assert_no_ping_for_others(app):
    """Fail if the health check of beat, the page or another one pings the workers."""
    for service in app.services:
        pings = re.search(r"inspect\W+ping", service.health_check())
        assert service.kind == "worker" or not pings, (
            f"{service.name}'s health check should look at {service.kind or 'it'}, but inspect ping"
            " asks the workers."
        )


def assert_worker_is_asked_alone(app):
    for worker in app.workers():
        found = re.search(r"inspect\W+\w+\b.*\s(-d|--destination)\b", worker.health_check())
        assert found, (
            f"{worker.name}'s health check should ask this worker alone, with --destination, but it"
            f" is {worker.health_check()!r}."
        )


def fits(path, pattern):
    """Return whether a pattern of Docker's names a path, or a folder that it is in."""
    places = map(str, (PurePosixPath(path), *PurePosixPath(path).parents))
    return any(fnmatch(place, pattern) for place in places)


def is_ignored(path, patterns):
    """Return whether .dockerignore keeps a path from Docker; the last pattern that fits decides."""
    ignored = False
    for pattern in patterns:
        wanted = pattern.removeprefix("!").strip("/").removeprefix("./").removeprefix("**/")
        if fits(path, wanted):
            ignored = not pattern.startswith("!")
    return ignored


def read_patterns(folder):
    """Return the patterns of a folder's .dockerignore."""
    path = folder / ".dockerignore"
    if not path.exists():
        return []
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def find_copies(app):
    """Return each instruction of the images that copies from the folder, and its sources."""
    copies = []
    for service in app.services:
        for rest in app.instructions(service, "COPY", "ADD"):
            if "--from" not in rest:
                words = [word for word in rest.split() if not word.startswith("--")]
                copies.append((rest, words[:-1]))
    return copies


def assert_image_has_no_password(app):
    """Fail if COPY or ADD takes a file that is a secret."""
    patterns = read_patterns(app.folder)
    copies = find_copies(app)
    for path in app.secret_files():
        if is_ignored(path, patterns):
            continue
        for rest, sources in copies:
            assert not any(is_taken(path, source) for source in sources), (
                f"{path} should stay out of the image, but COPY {rest} takes it: copy by name,"
                " and name what Docker may copy in .dockerignore."
            )


def is_taken(path, source):
    """Return whether COPY of a source takes the file at this path."""
    return fits(path, source.strip('[]",').removeprefix("./").rstrip("/") or ".")


def assert_flower_can_start(app):
    """Fail if Flower is started by a command that Celery 5.1 doesn't know."""
    for service in app.of_kind("Flower"):
        is_command = re.search(r"\bcelery\b[^;&|]*\sflower\b", service.command)
        is_module = "-m flower" in service.command
        assert is_module or not (PINNED and is_command), (
            f"{service.name} should run `python -m flower -A tasks flower`, because"
            " `celery flower` fails on Celery 5.1."
        )
