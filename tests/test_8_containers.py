"""Chapter 8's beat in a Docker container, as `make chapter-8-up` starts it: `make test-docker` runs this."""

from support.checkout import docker

from course.waiting import wait_until

pytest_plugins = "checkout"


def test_one_beat_beside_the_workers(checkout):
    checkout.make("chapter-8-up WORKERS=2")
    found = {}
    for each in checkout.containers():
        found.setdefault(each["Config"]["Labels"]["com.docker.compose.service"], []).append(
            each["Id"]
        )
    counts = {name: len(ids) for name, ids in sorted(found.items())}
    assert counts == {"beat": 1, "ledger": 1, "redis": 1, "worker": 2}, (
        f"WORKERS=2 should start one beat beside the workers; there are {counts}."
    )
    [beat] = found["beat"]

    def files():
        return docker("exec", beat, "ls", "/var/tmp")

    assert wait_until(lambda: "celerybeat-schedule" in files(), 30), (
        f"beat should write its file in its volume, there is {files()!r}.\n{docker('logs', beat)}"
    )
    checkout.make("down ARGS=--volumes")
    left = [each["Name"] for each in checkout.containers()]
    assert not left, f"make down should remove all containers, it left {left}."
