"""Chapter 14's manifests are valid, and do what their README.md and compose.yml say.

Nothing here runs them: that would take a cluster.
"""

import shutil
import subprocess

import pytest
from support.assertions import longest_limit
from support.manifests import VALIDATOR, read_manifests, validate

from course.chapters import ROOT, find_chapter
from course.environment import PROGRAMS, environment

CHAPTER = ROOT / "chapters" / find_chapter(14)
FOLDER = CHAPTER / "kubernetes"
README = (FOLDER / "README.md").read_text()
# ReadWriteOncePod is stable since 1.29. The other is the newest that the validator knows.
VERSIONS = ["1.29", "1.37"]
MANIFESTS = read_manifests(FOLDER)
DEPLOYMENTS = [name for kind, name in MANIFESTS if kind == "Deployment"]
WORKERS = ["worker", "ledger", "rates"]
WITH_A_FILE = ["ledger", "beat", "web"]
each_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)
each_worker = pytest.mark.parametrize("name", WORKERS)
needs_validator = pytest.mark.skipif(
    not VALIDATOR.exists(), reason="kubernetes-validate isn't installed: make setup-manifests"
)
pytestmark = pytest.mark.isolated(count=0)


def pod_of(name):
    return MANIFESTS["Deployment", name]["spec"]["template"]["spec"]


def container_of(name):
    [container] = pod_of(name)["containers"]
    return container


def mounts_of(name):
    """Return where a container mounts each volume."""
    return {mount["name"]: mount["mountPath"] for mount in container_of(name)["volumeMounts"]}


def shell_line(command):
    """Return the line of a command that is `sh -c LINE`."""
    assert command[:2] == ["sh", "-c"], f"{command} should be run by sh -c, for its $HOSTNAME."
    return command[2]


@needs_validator
@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version):
    problems = validate(FOLDER, version)
    assert not problems, f"Kubernetes {version} should accept the manifests: {problems}"


@needs_validator
@pytest.mark.parametrize(
    "right, wrong, named",
    [
        ("replicas: 1", "replica: 1", "'replica' was unexpected"),
        ("timeoutSeconds: 25", "timeoutSecond: 25", "'timeoutSecond' was unexpected"),
        ("periodSeconds: 60", "periodSeconds: 1m", "'1m' is not of type 'integer'"),
        ("claimName: ledger", "claim: ledger", "'claimName' is a required property"),
    ],
)
def test_a_mistake_in_a_manifest_is_named(right, wrong, named, tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "kubernetes")
    path = folder / "ledger.yaml"
    path.write_text(path.read_text().replace(right, wrong))
    problems = validate(folder, VERSIONS[0])
    assert "ledger.yaml" in problems and named in problems, (
        f"The validator should say of ledger.yaml that {named}, but it says: {problems!r}"
    )


@pytest.mark.parametrize("name", WITH_A_FILE)
def test_what_has_a_file_runs_once(name):
    spec = MANIFESTS["Deployment", name]["spec"]
    found = spec["replicas"], spec.get("strategy")
    wanted = 1, {"type": "Recreate"}
    assert found == wanted, f"{name} should be one replica, and end first; it is {found}."
    modes = MANIFESTS["PersistentVolumeClaim", name]["spec"]["accessModes"]
    assert modes == ["ReadWriteOncePod"], f"One pod should have {name}'s volume, but it is {modes}."
    mounts = mounts_of(name)
    assert mounts["data"] == "/data", f"{name} should write to a volume at /data: {mounts}"


@each_worker
def test_a_probe_asks_this_worker_alone(name):
    container = container_of(name)
    for kind in "startupProbe", "livenessProbe":
        probe = container[kind]
        line = shell_line(probe["exec"]["command"])
        words = "inspect ping --destination celery@$HOSTNAME --timeout "
        assert words in line, f"The {kind} of {name} should ask it alone, but it is: {line}"
        waits = int(line.partition(words)[2])
        limit = probe.get("timeoutSeconds", 1)
        assert limit >= waits + 10, (
            f"The {kind} of {name} waits {waits} s for an answer, and Python has to start, but"
            f" timeoutSeconds is {limit}."
        )
    patience = container["livenessProbe"]["periodSeconds"] * probe["failureThreshold"]
    assert patience == 600, f"{name} should be restarted after ten minutes, not {patience} s."


@each_worker
def test_a_stop_takes_no_more_messages_and_waits_for_the_longest_task(name, app):
    container = container_of(name)
    line = shell_line(container["lifecycle"]["preStop"]["exec"]["command"])
    queue = container["command"][container["command"].index("-Q") + 1]
    words = f"control cancel_consumer {queue} --destination celery@$HOSTNAME; sleep 2"
    assert line.endswith(words), f"The preStop of {name} should be {words}, but it is {line}"
    seconds = pod_of(name)["terminationGracePeriodSeconds"]
    # What a pool now and then takes to end, and the preStop.
    wanted = longest_limit(app) + 30 + 12
    assert seconds >= wanted, f"{name} should have {wanted} s for a stop, but it has {seconds}."


@each_worker
def test_a_worker_has_the_memory_that_its_processes_may_take(name, app):
    container = container_of(name)
    size = container["resources"]["limits"]["memory"]
    allowed = int(size.removesuffix("Mi")) * 1024
    processes = 1
    command = container["command"]
    if "threads" not in command:
        processes += int(command[command.index("-c") + 1])
    needed = processes * app.conf.worker_max_memory_per_child
    assert allowed > needed, f"{name} should have more than {needed} KiB, but it has {allowed}."


@each_deployment
def test_a_pod_may_do_little(name):
    pod = pod_of(name)
    container = container_of(name)
    for where, settings in {
        # Without the group, the user could neither read the secret nor write to a volume.
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "": {"automountServiceAccountToken": False, "enableServiceLinks": False},
    }.items():
        found = pod.get(where, pod)
        for setting, wanted in settings.items():
            value = found.get(setting)
            assert value == wanted, f"{name} should have {setting}: {wanted}, but has {value}."
    found = container["securityContext"]
    wanted = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert found == wanted, f"The container of {name} should have {wanted}, but it has {found}."
    assert container["resources"]["limits"].get("memory"), f"{name} should have a memory limit."


@each_deployment
def test_a_pod_gets_the_password_as_a_file(name):
    folder = "/run/secrets/redis"
    [volume] = [found for found in pod_of(name)["volumes"] if found["name"] == "redis"]
    assert volume["secret"]["secretName"] == "redis", f"{name} should mount the secret: {volume}"
    mounts = mounts_of(name)
    assert mounts["redis"] == folder, f"{name} should have the secret in {folder}: {mounts}"


def test_the_variables_name_the_files_of_the_secret():
    made = "secret generic redis --from-file=password=secrets/redis_password --from-file=ca.crt"
    assert made in README, f"kubernetes/README.md should make the secret: kubectl create {made}"
    data = MANIFESTS["ConfigMap", "app"]["data"]
    found = data["REDIS_PASSWORD_FILE"], data["REDIS_CA_FILE"]
    wanted = "/run/secrets/redis/password", "/run/secrets/redis/ca.crt"
    assert found == wanted, f"app.yaml should name the files {wanted}, but it names {found}."


def test_no_manifest_holds_a_secret():
    kinds = {kind for kind, _ in MANIFESTS}
    wanted = {"ConfigMap", "Deployment", "PersistentVolumeClaim", "Service"}
    assert kinds == wanted, f"The manifests should be {wanted}, and no Secret, but are {kinds}."
    [login] = container_of("flower")["env"]
    wanted = {"secretKeyRef": {"name": "flower", "key": "login"}}
    assert login == {"name": "FLOWER_BASIC_AUTH", "valueFrom": wanted}, (
        f"Flower should get its login from a secret, but its environment is {login}."
    )
    # Flower would compare the end of the line too.
    made = '$ printf %s "$(cat secrets/flower_login)" | kubectl create secret generic flower'
    assert made in README, f"kubernetes/README.md should make the secret without a newline: {made}"


def test_the_service_leads_to_the_page():
    services = [name for kind, name in MANIFESTS if kind == "Service"]
    assert services == ["web"], f"The page alone should have a Service, but {services} have."
    spec = MANIFESTS["Service", "web"]["spec"]
    labels = MANIFESTS["Deployment", "web"]["spec"]["template"]["metadata"]["labels"]
    assert spec["selector"] == labels, f"The Service should select {labels}: {spec['selector']}"
    [port] = container_of("web")["ports"]
    targets = [found["targetPort"] for found in spec["ports"]]
    assert targets == [port["name"]], f"The Service should lead to {port['name']}, not {targets}."


def test_flower_takes_a_service_for_its_port():
    """That's why enableServiceLinks is false: Kubernetes sets such a variable for a Service."""
    command = [PROGRAMS / "python", "-m", "flower", "-A", "tasks", "flower"]
    env = environment("redis://127.0.0.1:1/0") | {"FLOWER_PORT": "tcp://10.0.0.1:5555"}
    done = subprocess.run(
        command, cwd=CHAPTER, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    last = done.stderr.strip().rpartition("\n")[2]
    assert "invalid literal for int" in last, (
        f"Flower should refuse tcp://10.0.0.1:5555 as its port, but it says: {last}"
    )
