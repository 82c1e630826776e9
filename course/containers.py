"""Docker: Redis and a chapter's workers in containers, started by compose."""

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

from course.chapters import ROOT, display_path, find_chapter
from course.environment import STACK, command_output, redis_port

LABEL = "--filter=label=com.docker.compose"
# The file of an app that has a compose project to itself, in the app's folder.
OWN_FILE = "compose.yml"


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


def run_compose(words, folder, variables, **options):
    """Run compose in a folder, with these variables; return the finished process.

    Exits with a sentence without Docker. The options are those of subprocess.run.
    """
    problem = docker_problem()
    if problem:
        sys.exit(problem)
    # Compose labels the containers with PWD if that is the working directory.
    env = os.environ | {"PWD": str(folder), "STACK": STACK} | variables
    command = [*compose_program(), *words]
    return subprocess.run(command, cwd=folder, env=env, check=False, **options)


def compose(*words, chapter=None, **options):
    """Run compose on this checkout's project for the learner's port; return the finished process.

    The files are docker-compose.yml and the workers.yml of a chapter, or of all chapters.
    """
    workers = sorted(ROOT.glob(f"chapters/{chapter or '*'}/workers.yml"))
    variables = {
        # Compose wants a value even for services that don't start.
        "CHAPTER": (chapter or "1").partition("-")[0],
        "COMPOSE_FILE": os.pathsep.join(map(str, [ROOT / "docker-compose.yml", *workers])),
        "REDIS_PORT": str(redis_port()),
    }
    words = ["-p", project_name(redis_port()), *words]
    return run_compose(words, ROOT, variables, **options)


def compose_own(folder, *words, **options):
    """Run compose as a learner does in a folder that has a compose.yml.

    So each command that is typed there finds what this one started, and the other way round.
    """
    return run_compose(words, folder, {}, **options)


def find_services(chapter=None):
    """Return the names of the services that are workers of a chapter, or of any chapter."""
    done = compose("config", "--services", chapter=chapter, stdout=subprocess.PIPE, text=True)
    return sorted(set(done.stdout.split()) - {"redis"})


def start_workers(number):
    """Start WORKERS workers of a chapter in containers and exit with the status of compose."""
    chapter = find_chapter(number)
    # New containers each time, as a worker doesn't reload edited code.
    words = ["up", "-d", "--build", "--no-deps", "--force-recreate"]
    words += ["--scale", f"worker={os.environ.get('WORKERS') or 1}"]
    sys.exit(compose(*words, *find_services(chapter), chapter=chapter).returncode)


def brings_its_own(number):
    """Return whether a chapter has a compose.yml, with a Redis of its own."""
    return (ROOT / "chapters" / find_chapter(number) / OWN_FILE).exists()


def start_own(folder):
    """Start what the compose.yml of a folder says and exit with the status of compose."""
    if not (folder / OWN_FILE).exists():
        sys.exit(f"{display_path(folder)} has no {OWN_FILE}: write it, and type the command again.")
    name = os.environ.get("COMPOSE_PROJECT_NAME") or folder.name.lower()
    others = find_folders(f"{LABEL}.project={name}") - {str(folder)}
    for other in others:
        down = f"type docker compose down in {shlex.quote(other)} first"
        sys.exit(f"The containers of {other} have the same project name, {name}: {down}.")
    sys.exit(compose_own(folder, "up", "-d", "--build").returncode)


def find_folders(label):
    """Return the folders whose compose files have made containers with this label."""
    folder_of = '{{.Label "com.docker.compose.project.working_dir"}}'
    output = command_output("docker", "ps", "--all", label, f"--format={folder_of}")
    return set((output or "").split("\n")) - {""}


def find_own(*options):
    """Return the folders of this checkout, and DIR, whose compose.yml has made containers."""
    found = []
    folders = [path.parent for path in sorted(ROOT.glob(f"*/*/{OWN_FILE}"))]
    if os.environ.get("DIR"):
        folders.append(Path(os.environ["DIR"]).expanduser().resolve())
    for folder in folders:
        label = f"{LABEL}.project.working_dir={folder}"
        if command_output("docker", "ps", *options, "--quiet", label):
            found.append(folder)
    return found


def show_logs(*options):
    """Follow the logs of the workers in containers, with options of compose, and exit."""
    for folder in find_own():
        sys.exit(compose_own(folder, "logs", "--follow", *options).returncode)
    sys.exit(compose("logs", "--follow", *options, *find_services()).returncode)


def remove_containers(*options):
    """Remove the containers and exit; waiting messages are kept unless --volumes is given."""
    status = 0
    for folder in find_own("--all"):
        status = max(status, compose_own(folder, "down", *options).returncode)
    sys.exit(max(status, compose("down", *options).returncode))
