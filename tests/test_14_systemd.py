"""Chapter 14's units of systemd do what their README.md and compose.yml say."""

import re
import shutil
import subprocess

import pytest
from support.assertions import longest_limit
from support.celery_commands import describe_command
from support.units import read_unit

from course.chapters import ROOT, find_chapter

CHAPTER = ROOT / "chapters" / find_chapter(14)
FOLDER = CHAPTER / "systemd"
README = (FOLDER / "README.md").read_text()
# The units that README.md starts.
WORKERS = ["celery@celery", "celery@ledger", "celery@rates"]
UNITS = [*WORKERS, "celery-beat", "celery-web", "celery-flower"]
SIZES = {"M": 1024, "G": 1024 * 1024}  # in KiB, as Celery counts
each_unit = pytest.mark.parametrize("name", UNITS)
each_worker = pytest.mark.parametrize("name", WORKERS)
pytestmark = pytest.mark.isolated(count=0)


def read(name):
    return read_unit(FOLDER, f"{name}.service")


def the_one(name, setting):
    """Return the value of a setting that a unit has once, or fail."""
    values = read(name).get(setting, [])
    assert len(values) == 1, f"{name} should have one {setting}, but it has {values}."
    return values[0]


def test_readme_starts_every_unit():
    line = f"$ sudo systemctl enable --now {' '.join(UNITS)}"
    assert line in README, f"systemd/README.md should have the line: {line}"
    templates = {name.partition("@")[0] for name in UNITS}
    files = {path.stem.rstrip("@") for path in FOLDER.glob("*.service")}
    assert files == templates, f"The units should be those of README.md, but they are {files}."


@each_unit
def test_systemd_finds_nothing_wrong(name, tmp_path):
    """It reads them with a program of this machine instead of the server's."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze isn't installed, so nothing but our own eyes read the units")
    folder = shutil.copytree(FOLDER, tmp_path / "system")
    for path in folder.rglob("*.*"):
        if path.is_file():
            path.write_text(re.sub(r"/opt/sums/venv/bin/\w+", "/bin/true", path.read_text()))
    problems = verify(folder / f"{name}.service")
    assert not problems, f"systemd should find nothing wrong in {name}, but it says: {problems}"


def verify(unit):
    """Return what systemd says about a unit and its drop-ins."""
    command = ["systemd-analyze", "verify", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    return "\n".join(line for line in lines if unit.stem in line or unit.parent.name in line)


def test_systemd_finds_a_misspelt_setting(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze isn't installed, so nothing but our own eyes read the units")
    unit = tmp_path / "celery-x.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nOOMPolice=continue\n")
    problems = verify(unit)
    assert "OOMPolice" in problems, f"systemd should name OOMPolice, but it says: {problems!r}"


def test_the_ledger_has_one_writer_whatever_else_is_installed(tmp_path):
    """No variable and no drop-in gives it a second process."""
    template = shutil.copy(FOLDER / "celery@.service", tmp_path)
    assert not (FOLDER / "celery@ledger.service.d").exists(), (
        "celery@ledger should need no drop-in for its one process."
    )
    command = read_unit(tmp_path, "celery@ledger.service")["ExecStart"][0]
    assert "$" not in command, f"No variable should change the ledger's worker: {command}"
    found = describe_command(command)
    wanted = "worker of ledger with 1 of prefork and events"
    assert found == wanted, f"{template} alone should run {wanted}, but it runs {found}."


@each_worker
def test_a_stop_ends_the_main_process_and_waits_for_the_longest_task(name, app):
    mode = the_one(name, "KillMode")
    assert mode == "mixed", f"TERM should be for the main process alone, but KillMode is {mode}."
    seconds = int(the_one(name, "TimeoutStopSec"))
    wanted = longest_limit(app) + 30  # what a pool now and then takes to end
    assert seconds >= wanted, f"{name} should wait {wanted} s for a stop, but it waits {seconds}."


@each_worker
def test_a_stop_takes_no_more_messages_first(name):
    queue = name.partition("@")[2]
    settings = read(name)
    words = f"control cancel_consumer {queue} --destination {queue}@%H"
    assert words in settings["ExecStop"][0], f"A stop of {name} should begin with: {words}"
    assert f"-n {queue}@%H" in settings["ExecStart"][0], f"{name} should be the node {queue}@%H."
    # systemd gives LoadCredential's files to ExecStart, and not to ExecStop.
    assert "LoadCredential" not in settings, (
        f"{name} should read its password where ExecStop can read it too."
    )


@each_worker
def test_a_fat_process_dies_alone(name, app):
    policy = the_one(name, "OOMPolicy")
    assert policy == "continue", f"{name} should go on, but its OOMPolicy is {policy}."
    number, unit = re.fullmatch(r"(\d+)([MG])", the_one(name, "MemoryMax")).groups()
    allowed = int(number) * SIZES[unit]
    processes = 1
    words = the_one(name, "ExecStart").split()
    if "threads" not in words:
        processes += int(words[words.index("-c") + 1])
    needed = processes * app.conf.worker_max_memory_per_child
    assert allowed > needed, (
        f"MemoryMax of {name} should leave its {processes} processes the {needed} KiB that they may"
        f" have, but it is {allowed} KiB."
    )


@each_unit
def test_a_unit_may_write_to_its_own_folder_alone(name):
    settings = read(name)
    assert the_one(name, "User") == "celery", f"{name} should run as celery."
    for setting, wanted in {
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "ProtectHome": "yes",
        "ProtectSystem": "strict",
        "WorkingDirectory": f"%S/{settings['StateDirectory'][0]}",
        "Restart": "always",
    }.items():
        found = settings.get(setting)
        assert found == [wanted], f"{name} should have {setting}={wanted}, but it has {found}."


@each_unit
def test_a_unit_reads_the_password_from_a_file(name):
    variables = " ".join(read(name)["Environment"])
    place = "/etc/celery/redis_password"
    assert f"REDIS_PASSWORD_FILE={place}" in variables, f"{name} should name {place}: {variables}"
    line = f"install -m 400 -o celery /dev/stdin {place}"
    assert line in README, f"systemd/README.md should make that file with: {line}"


def test_flower_does_not_start_without_its_password():
    files = read("celery-flower")["EnvironmentFile"]
    place = "/etc/celery/flower.env"
    assert place in files, f"Flower should need the file {place}, but it has {files}."
    line = f"install -m 600 /dev/stdin {place}"
    assert line in README, f"systemd/README.md should make that file with: {line}"
    for name in "celery-flower", "celery-web":
        command = the_one(name, "ExecStart")
        assert "127.0.0.1" in command, f"{name} should listen on this machine alone: {command}"
