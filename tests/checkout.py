"""A copy of the checkout, in which tests start containers as a learner does: `make chapter-N-up`."""

import json
import shutil
import subprocess

import pytest
from course import PROGRAMS, ROOT, STACK, environment, free_port

NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".course", "my", "__pycache__", ".*_cache")


class Checkout:
    """A copy of the checkout, so a compose project of its own, on a free port."""

    def __init__(self, folder, port):
        self.folder = shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
        (folder / PROGRAMS.parent.name).symlink_to(PROGRAMS.parent)
        self.port, self.env = port, environment() | {"STACK": STACK}

    def command(self, target, *options):
        # Without set-up, which the tests have done.
        return ["make", "-C", str(self.folder), "-o", "setup", target, f"REDIS_PORT={self.port}", *options]

    def make(self, target, *options):
        """Run a make command; fail with what it printed where it fails."""
        command = self.command(target, *options)
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        assert not done.returncode, f"make {target} should succeed, it printed: {done.stdout}{done.stderr}"

    def containers(self):
        """Return what Docker says about the containers of this checkout."""
        label = f"com.docker.compose.project.working_dir={self.folder.resolve()}"
        ids = docker("ps", "--all", "--quiet", f"--filter=label={label}").split()
        return json.loads(docker("inspect", *ids)) if ids else []


def docker(*words):
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(request, tmp_path):
    """A copy of the checkout, on whose port no containers are yet."""
    if not request.config.option.docker:
        pytest.skip("needs a Docker engine: make test-docker")
    checkout = Checkout(tmp_path / "course", free_port())
    # The reaper removes what is left, in whatever way the tests end.
    request.getfixturevalue("nodes").reaper.watch(" ".join(checkout.command("down", "ARGS=--volumes")))
    return checkout
