"""Chapter 14's units and manifests run the commands of its compose.yml, with its settings."""

import re

import pytest
import yaml
from support.celery_commands import (
    describe_command,
    read_compose_commands,
    read_redis_settings,
)
from support.manifests import read_manifests
from support.units import read_unit

from course.chapters import ROOT, find_chapter

CHAPTER = ROOT / "chapters" / find_chapter(14)
COMPOSE = CHAPTER / "compose.yml"
COMMANDS = read_compose_commands(COMPOSE)
MANIFESTS = read_manifests(CHAPTER / "kubernetes")
# The unit of each service.
UNITS = {
    "worker": "celery@celery",
    "ledger": "celery@ledger",
    "rates": "celery@rates",
    "beat": "celery-beat",
    "web": "celery-web",
    "flower": "celery-flower",
}
each_service = pytest.mark.parametrize("service", UNITS)


def container_of(service):
    spec = MANIFESTS["Deployment", service]["spec"]
    return spec["template"]["spec"]["containers"][0]


def test_each_service_has_a_unit_and_a_deployment():
    services = sorted(COMMANDS)
    deployments = sorted(name for kind, name in MANIFESTS if kind == "Deployment")
    assert services == sorted(UNITS) == deployments, (
        f"The services {services} should be the units' {sorted(UNITS)}, and the Deployments'"
        f" {deployments}."
    )


@each_service
def test_a_unit_runs_what_compose_runs(service):
    name = UNITS[service]
    [command] = read_unit(CHAPTER / "systemd", f"{name}.service")["ExecStart"]
    found = describe_command(command)
    wanted = COMMANDS[service]
    assert found == wanted, f"{name} should run what compose.yml does, {wanted}, but runs {found}."


@pytest.mark.parametrize("service", ["worker", "ledger", "rates"])
def test_a_worker_has_as_much_time_and_memory_as_in_compose(service):
    given = yaml.safe_load(COMPOSE.read_text())["services"][service]
    wanted = given["stop_grace_period"], given["mem_limit"].upper()
    unit = read_unit(CHAPTER / "systemd", f"{UNITS[service]}.service")
    found = f"{unit['TimeoutStopSec'][0]}s", unit["MemoryMax"][0]
    assert found == wanted, (
        f"{UNITS[service]} should have the time for a stop and the memory of compose.yml, {wanted},"
        f" but it has {found}."
    )


@each_service
def test_a_pod_runs_what_compose_runs(service):
    found = describe_command(" ".join(container_of(service)["command"]))
    wanted = COMMANDS[service]
    assert found == wanted, (
        f"{service}.yaml should run what compose.yml does, {wanted}, but it runs {found}."
    )


@each_service
def test_a_pod_has_the_image_of_compose(service):
    image = yaml.safe_load(COMPOSE.read_text())["x-app"]["image"]
    wanted = "registry.example/" + re.sub(r"\$\{\w+:-(\w+)\}", r"\1", image)
    found = container_of(service)["image"]
    assert found == wanted, f"{service}.yaml should have the image {wanted}, but it has {found}."


def test_beat_is_asked_what_compose_asks():
    service = yaml.safe_load(COMPOSE.read_text())["services"]["beat"]
    wanted = ["sh", "-c", service["healthcheck"]["test"]]
    found = container_of("beat")["livenessProbe"]["exec"]["command"]
    assert found == wanted, f"beat.yaml should probe beat with {wanted}, but it has {found}."


def test_redis_has_the_settings_of_compose():
    wanted = read_redis_settings(COMPOSE.read_text())
    found = read_redis_settings((CHAPTER / "systemd" / "redis.conf").read_text())
    assert found == wanted, f"redis.conf should have {wanted}, as compose.yml, but it has {found}."
    assert found.get("maxmemory-policy") == "noeviction", f"Redis should evict nothing: {found}"


def test_compose_sets_the_variables_of_the_config_map():
    """Its Redis is on the same machine, so nobody is on the way."""
    wanted = MANIFESTS["ConfigMap", "app"]["data"].keys() - {"REDIS_CA_FILE"}
    found = yaml.safe_load(COMPOSE.read_text())["x-app"]["environment"].keys()
    assert found == wanted, f"compose.yml should set {sorted(wanted)}, but it sets {sorted(found)}."


def test_the_app_reads_each_variable_of_the_config_map():
    code = "".join(path.read_text() for path in CHAPTER.rglob("*.py"))
    for name in MANIFESTS["ConfigMap", "app"]["data"]:
        assert f'"{name}"' in code, f"The app should read {name}, which app.yaml sets."
