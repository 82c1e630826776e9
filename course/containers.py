"""Docker: Redis and a chapter's workers in containers, started by compose."""

import hashlib
import os
import subprocess
import sys

from course.chapters import ROOT, find_chapter
from course.environment import STACK, redis_port

LABEL = "--filter=label=com.docker.compose"
# The chapters that have a compose project to themselves.
CHAPTERS_WITH_COMPOSE = [path.parent.name for path in ROOT.glob("chapters/*/compose.yml")]


def command_output(*command):
    """Return what a command prints, or None if it fails or is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def project_name(port):
    """Return the name of the compose project of this checkout and a port, unique to the two."""
    checkout = hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:8]
    return f"celery-course-{checkout}-{port}"


def find_servers(project=None):
    """Return the ids of the running Redis containers of a project, or of all of this checkout."""
    owner = f"{LABEL}.project.working_dir={ROOT}"
    if project:
        owner = f"{LABEL}.project={project}"
    output = command_output("docker", "ps", "--quiet", owner, f"{LABEL}.service=redis")
    return (output or "").split()


def docker_problem():
    """Return in a sentence what Docker lacks for containers to start here, or None."""
    if command_output("docker", "version") is None:
        return "No Docker engine answers: start Docker."
    if not compose_program():
        return "Docker has no compose command: install its compose plugin."
    return None


def compose_program():
    """Return the words that run compose: Docker's plugin, the older program, or None."""
    for program in (["docker", "compose"], ["docker-compose"]):
        if command_output(*program, "version"):
            return program
    return None


def compose(*words, chapter=None, **options):
    """Run compose on this checkout's project for the learner's port; return the finished process.

    The files are docker-compose.yml and the workers.yml of a chapter, or of all chapters. If the
    chapter has a compose.yml, it is that file alone, in a project of the chapter. Exits with a
    sentence without Docker. The options are those of subprocess.run.
    """
    problem = docker_problem()
    if problem:
        sys.exit(problem)
    project = project_name(redis_port())
    if chapter in CHAPTERS_WITH_COMPOSE:
        project += f"-{chapter}"
        files = [ROOT / "chapters" / chapter / "compose.yml"]
    else:
        workers = sorted(ROOT.glob(f"chapters/{chapter or '*'}/workers.yml"))
        files = [ROOT / "docker-compose.yml", *workers]
    env = os.environ | {
        # Compose wants a value even for services that don't start.
        "CHAPTER": (chapter or "1").partition("-")[0],
        "COMPOSE_FILE": os.pathsep.join(str(file) for file in files),
        # Compose labels the containers with PWD if that is the working directory.
        "PWD": str(ROOT),
        "REDIS_PORT": str(redis_port()),
        "STACK": STACK,
    }
    command = [*compose_program(), "-p", project, *words]
    return subprocess.run(command, cwd=ROOT, env=env, check=False, **options)


def find_services(chapter=None):
    """Return the names of the services that are workers of a chapter, or of any chapter."""
    done = compose("config", "--services", chapter=chapter, stdout=subprocess.PIPE, text=True)
    return sorted(set(done.stdout.split()) - {"redis"})


def start_workers(number):
    """Start WORKERS workers of a chapter in containers and exit with the status of compose."""
    chapter = find_chapter(number)
    words = ["up", "-d", "--build", "--scale", f"worker={os.environ.get('WORKERS') or 1}"]
    if chapter not in CHAPTERS_WITH_COMPOSE:
        # New containers each time, as a worker doesn't reload edited code.
        words += ["--no-deps", "--force-recreate", *find_services(chapter)]
    sys.exit(compose(*words, chapter=chapter).returncode)


def find_projects(*lists):
    """Return the chapters whose own project has something in one of these lists of docker."""
    project = project_name(redis_port())
    found = []
    for chapter in CHAPTERS_WITH_COMPOSE:
        label = f"{LABEL}.project={project}-{chapter}"
        if any(command_output("docker", *words.split(), "--quiet", label) for words in lists):
            found.append(chapter)
    return found


def show_logs(*options):
    """Follow the logs of the workers in containers, with options of compose, and exit."""
    running = find_projects("ps")
    if running:
        done = compose("logs", "--follow", *options, chapter=running[0])
    else:
        done = compose("logs", "--follow", *options, *find_services())
    sys.exit(done.returncode)


def remove_containers(*options):
    """Remove the containers and exit; waiting messages are kept unless --volumes is given."""
    status = 0
    for chapter in (*find_projects("ps --all", "volume ls"), None):
        done = compose("down", *options, chapter=chapter)
        status = max(status, done.returncode)
    sys.exit(status)
