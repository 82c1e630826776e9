"""Docker: Redis and a chapter's workers in containers, by compose."""

import hashlib
import os
import subprocess
import sys

from course.chapters import ROOT, find_chapter
from course.environment import STACK, redis_port

LABEL = "--filter=label=com.docker.compose"
# The chapters with containers of their own.
CHAPTERS_WITH_COMPOSE = [path.parent.name for path in ROOT.glob("chapters/*/compose.yml")]


def command_output(*command):
    """Return what a command printed, or None where it failed or is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def project(port):
    """Return the name of the compose project of this checkout and a port, which no other checkout or port shares."""
    return f"celery-course-{hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:8]}-{port}"


def containers(project=None):
    """Return the ids of the running Redis containers of a project, or of all of this checkout."""
    which = f"{LABEL}.project={project}" if project else f"{LABEL}.project.working_dir={ROOT}"
    return (
        command_output("docker", "ps", "--quiet", which, f"{LABEL}.service=redis") or ""
    ).split()


def docker_problem():
    """Return what Docker lacks for containers to start here, in a sentence, or None."""
    if command_output("docker", "version") is None:
        return "No Docker engine answers: start Docker."
    if not compose_program():
        return "Docker has no compose command: install its compose plugin."


def compose_program():
    """Return the words that run compose: Docker's plugin, the program of its own that came before, or None."""
    found = (
        each
        for each in (["docker", "compose"], ["docker-compose"])
        if command_output(*each, "version")
    )
    return next(found, None)


def compose(*words, of="*", **options):
    """Run docker compose on this checkout's project for the learner's port; return the finished process.

    A chapter may add to docker-compose.yml, in a file workers.yml: `of` is this chapter, or all of them. Or it has a
    compose.yml, and a project, of its own.
    """
    if failure := docker_problem():
        sys.exit(failure)
    here, name = redis_port(), project(redis_port())
    files = [ROOT / "docker-compose.yml", *sorted(ROOT.glob(f"chapters/{of}/workers.yml"))]
    if of in CHAPTERS_WITH_COMPOSE:
        files, name = [ROOT / "chapters" / of / "compose.yml"], f"{name}-{of}"
    env = {"REDIS_PORT": str(here), "STACK": STACK, "CHAPTER": of.partition("-")[0]}
    # Compose takes PWD for the folder, where both are the same, and labels the containers with it.
    env |= {"PWD": str(ROOT), "COMPOSE_FILE": os.pathsep.join(map(str, files))}
    command = [*compose_program(), "-p", name, *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, check=False, **options)


def services(of="*"):
    """Return the names of the services that are workers of a chapter, or of any."""
    found = compose("config", "--services", of=of, stdout=subprocess.PIPE, text=True).stdout.split()
    return sorted(set(found) - {"redis"})


def up(number):
    """Start WORKERS workers of a chapter in containers, anew each time: they don't reload edited code."""
    of, workers = find_chapter(number), f"worker={os.environ.get('WORKERS') or 1}"
    anew = [] if of in CHAPTERS_WITH_COMPOSE else ["--no-deps", "--force-recreate", *services(of)]
    sys.exit(compose("up", "-d", "--build", "--scale", workers, *anew, of=of).returncode)


def own(*lists):
    """Return the chapters whose own project has something in one of these lists of docker."""
    of_project = f"{LABEL}.project={project(redis_port())}-"

    def listed(what, of):
        return command_output("docker", *what.split(), "--quiet", of_project + of)

    return [of for of in CHAPTERS_WITH_COMPOSE if any(listed(what, of) for what in lists)]


def logs(*options):
    running = own("ps")
    words = [] if running else services()
    sys.exit(compose("logs", "--follow", *options, *words, of=[*running, "*"][0]).returncode)


def down(*options):
    """Remove the containers. The messages that wait in Redis are kept, unless the option --volumes is given."""
    made = own("ps --all", "volume ls")
    sys.exit(max(compose("down", *options, of=of).returncode for of in (*made, "*")))
