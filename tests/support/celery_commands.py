"""What a command of Celery, Flower or uvicorn runs, wherever it stands."""

import argparse
import re
import shlex

import yaml

# What depends on where a program runs: its folder, and who can reach it.
PLACE = re.compile(r"\S*/bin/(?=\w)| --(?:address|host|port)[ =]\S+")


def describe_command(command):
    """Return what a command runs, without the parts that depend on where it runs."""
    text = PLACE.sub("", command)
    if " worker " in text:
        return describe_worker(shlex.split(text.partition(" worker ")[2]))
    return text


def describe_worker(options):
    """Return the queues of a worker, its pool and the pool's size, and any unusual options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-Q", "--queues", required=True)
    parser.add_argument("-P", "--pool", default="prefork")
    parser.add_argument("-c", "--concurrency", required=True)
    parser.add_argument("-E", "--task-events", action="store_true")
    parser.add_argument("-l", "--loglevel")
    parser.add_argument("-n", "--hostname")
    found, others = parser.parse_known_args(options)
    what = [f"worker of {found.queues} with {found.concurrency} of {found.pool}", *others]
    if found.task_events:
        what.append("and events")
    return " ".join(what)


def read_compose_commands(path):
    """Return what each service of a compose.yml runs that is built from the chapter."""
    commands = {}
    for name, service in yaml.safe_load(path.read_text())["services"].items():
        if "build" not in service or name == "bank":
            continue
        text = " ".join(service["command"].split()).replace("$$", "$")
        # Flower's is a line of the shell that first reads a secret.
        if text.startswith("sh -c"):
            text = text.partition("exec ")[2].rstrip("'")
        commands[name] = describe_command(text)
    return commands


def read_redis_settings(text):
    """Return the settings of a redis.conf, or of a compose.yml that holds one."""
    names = "appendonly|appendfsync|maxmemory|maxmemory-policy|save"
    return dict(re.findall(rf"^\s*({names}) (\S+)$", text, re.MULTILINE))
