"""Run a folder's compose.yml in a Docker engine: a copy, under a name and on ports of its own."""

import json
import os
import shutil
import subprocess

import yaml
from support.compose_files import App
from support.page_server import PageServer

from course.chapters import NOT_CODE
from course.containers import compose_program
from course.environment import STACK, command_output, free_port
from course.waiting import wait_until

SECRET = "seven:of/nine"
HEALTHY = 240  # seconds, on a busy machine
ENTER = """
from tasks import enter_request
print(enter_request.delay({key!r}, 100).get(timeout=40))
"""


class Run:
    """The services of a copy of an app's folder, in containers that end with the block."""

    def __init__(self, folder, place):
        self.app = App(folder)
        self.project = f"celery-course-check-{free_port()}"
        self.folder = place / self.project
        hidden = [pattern for pattern in NOT_CODE if pattern != ".*"]
        ignored = shutil.ignore_patterns(".git", ".venv*", ".env", "secrets", *hidden)
        shutil.copytree(folder, self.folder, ignore=ignored)
        self.page_port = free_port()
        self.write_secrets()
        self.write_compose_file()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.compose("down", "--volumes", "--timeout", "5")
        # Its layers stay, for the next check.
        command_output("docker", "rmi", "--force", "--no-prune", self.project)

    def write_secrets(self):
        """Write a password into each file that is a secret."""
        for path in self.app.secret_files():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            # As Flower's login, it has a colon; that does a password no harm.
            file.write_text(f"{SECRET}\n")
            file.chmod(0o644)

    def write_compose_file(self):
        """Give the copy ports and an image of its own, so that nothing else is in its way."""
        path = self.folder / "compose.yml"
        content = yaml.safe_load(path.read_text())
        for name, given in content["services"].items():
            given.pop("container_name", None)
            if given.get("build"):
                given["image"] = self.project
            for service in self.app.services:
                if service.name == name and given.get("ports"):
                    given["ports"] = [f"127.0.0.1:{self.port_for(service)}"]
        path.write_text(yaml.safe_dump(content))

    def port_for(self, service):
        """Return a free port of this machine, and the port in the container that it leads to."""
        entry = service.given["ports"][0]
        if isinstance(entry, dict):
            entry = entry["target"]
        target = str(entry).rpartition(":")[2]
        if service.kind == "page":
            return f"{self.page_port}:{target}"
        return f"{free_port()}:{target}"

    def compose(self, *words):
        """Run compose on the copy; return the finished process."""
        return subprocess.run(
            [*compose_program(), "-p", self.project, *words],
            cwd=self.folder,
            # The older compose gives up after a minute on a busy machine.
            env=os.environ | {"COMPOSE_HTTP_TIMEOUT": "300", "STACK": STACK},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def assert_starts(self):
        """Fail unless compose makes the image and starts the services."""
        done = self.compose("up", "-d", "--build")
        assert done.returncode == 0, (
            f"docker compose up should succeed, but it says: {last_lines(done.stdout)}"
        )

    def states(self):
        """Return the state of the container of each service, as Docker tells it."""
        label = f"--filter=label=com.docker.compose.project={self.project}"
        ids = command_output("docker", "ps", "--all", "--quiet", label).split()
        states = {}
        for found in json.loads(command_output("docker", "inspect", *ids) or "[]"):
            service = found["Config"]["Labels"]["com.docker.compose.service"]
            health = found["State"].get("Health", {}).get("Status", "without a health check")
            if found["RestartCount"] > 1:
                health = "restarting"
            states[service] = health
        return states

    def assert_healthy(self):
        """Fail unless all services are healthy in time, with what an unhealthy one has logged."""
        bad = ("unhealthy", "restarting")

        def is_decided():
            states = self.states().values()
            return set(states) == {"healthy"} or any(state in bad for state in states)

        wait_until(is_decided, HEALTHY)
        for service, state in self.states().items():
            assert state == "healthy", (
                f"{service} should be healthy, but it is {state}; its log ends with:"
                f" {last_lines(self.compose('logs', '--no-color', '--tail=5', service).stdout)}"
            )

    def assert_page_adds(self):
        """Fail unless the page answers, and a worker adds up."""
        page = PageServer(self.page_port)
        path = f"/sums/{page.ask('/sums', [1, 2, 3], seconds=10).body['id']}"
        wait_until(lambda: page.ask(path, seconds=30).body.get("result") == 6, 60)
        found = page.ask(path, seconds=30).body
        assert found.get("result") == 6, f"The page should add up 1 + 2 + 3, but it says: {found}"

    def assert_ledger_is_kept(self, service):
        """Fail unless an entry is there after the container of the ledger's worker is replaced."""
        balances = []
        for key in ("a", "b"):
            done = self.compose("exec", "-T", service, "python", "-c", ENTER.format(key=key))
            balances.append(last_lines(done.stdout).split()[-1])
            self.compose("up", "-d", "--no-deps", "--force-recreate", service)
        assert balances == ["100.0", "200.0"], (
            "Entries of 100 before and after the ledger's container is replaced should give 100.0"
            f" and 200.0, but they gave {balances}."
        )

    def assert_image_has_no_password(self):
        """Fail if a secret is anywhere in the image."""
        look = ["-rlsF", SECRET, "/", "--exclude-dir=proc", "--exclude-dir=sys"]
        command = ["docker", "run", "--rm", "--user=0", "--entrypoint=grep", self.project, *look]
        found = command_output(*command) or ""
        assert not found, f"The image should have no password, but it is in {found.split()[0]}."


def last_lines(text):
    """Return the last lines of an output as one line."""
    return " ".join(" ".join(text.splitlines()[-4:]).split())[-600:] or "nothing"
