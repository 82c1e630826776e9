"""Chapter 10's beat in a container, as `make chapter-10-up` starts it: make test-docker."""

from collections import Counter

from support.checkout import docker, needs_docker

from course.waiting import wait_until

pytest_plugins = "support.checkout"
pytestmark = needs_docker


def service_of(container):
    return container["Config"]["Labels"]["com.docker.compose.service"]


def test_one_beat_beside_the_workers(checkout):
    checkout.make("chapter-10-up WORKERS=2")
    containers = checkout.containers()
    counts = Counter(map(service_of, containers))
    wanted = {"bank": 1, "beat": 1, "ledger": 1, "rates": 1, "redis": 1, "worker": 2}
    assert counts == wanted, (
        f"WORKERS=2 should start one beat beside the workers, but it started {dict(counts)}."
    )
    [beat] = [found["Id"] for found in containers if service_of(found) == "beat"]

    def files():
        return docker("exec", beat, "ls", "/var/tmp")

    assert wait_until(lambda: "celerybeat-schedule" in files(), 60), (
        f"beat should write its file to its volume, but that has {files()!r}.\n"
        + docker("logs", beat)
    )
    checkout.make("down ARGS=--volumes")
    left = [container["Name"] for container in checkout.containers()]
    assert not left, f"make down should remove all containers, but it left {left}."
