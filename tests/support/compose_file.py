"""What an attempt's compose.yml gives to its services, read as YAML, without Docker."""

import re

import yaml

# What a service's command runs, and what the tests call such a service.
PROGRAMS = [
    (r"\bcelery\b.* worker\b", "worker"),
    (r"\bcelery\b.* beat\b", "beat"),
    (r"\bflower\b", "flower"),
    (r"\buvicorn\b", "page"),
    (r"\bredis-server\b", "Redis"),
]
SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "us": 0.000001}


class Service:
    """A service of compose.yml: its name, what it is given, its command, and its kind."""

    def __init__(self, name, given):
        self.name = name
        self.given = given
        self.command = command_text(given.get("command") or "")
        self.kind = self.find_kind()

    def find_kind(self):
        """Return which part of the app this is, or ""."""
        for pattern, kind in PROGRAMS:
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
        seconds += float(number) * SECONDS[unit]
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
