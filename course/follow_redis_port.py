"""Let Celery follow REDIS_PORT: in this environment, every URL of port 6379 of this machine moves.

Set-up installs this module beside Celery, with a .pth file that imports it when Python starts. It
changes nothing if a variable names a server already, nor a URL of another host or port, and an app
without a result backend stays without one. Checked on Celery 5.1.2 and 5.7.0.
"""

import os
import sys

NAMED_BY = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "REDIS_HOST")
USUAL = ("redis://127.0.0.1:6379", "redis://localhost:6379")


def find_port():
    """Return REDIS_PORT if Celery should follow it, or None."""
    port = os.environ.get("REDIS_PORT", "")
    if not port.isdecimal() or port == "6379":
        return None
    for name, value in os.environ.items():
        if value and (name in NAMED_BY or (name.startswith("CELERY_") and name.endswith("_URL"))):
            return None
    return port


class Mover:
    """Moves URLs to a port, and says so once in a terminal."""

    def __init__(self, port):
        self.port = port
        # A command of make says which server it uses.
        self.silent = "MAKELEVEL" in os.environ or not sys.stderr.isatty()

    def move(self, url):
        """Return a URL with the learner's port for the usual one; other values as they are."""
        for usual in USUAL:
            if url == usual or str(url).startswith(usual + "/"):
                self.report()
                return usual.replace("6379", self.port) + url.removeprefix(usual)
        return url

    def report(self):
        """Say once that URLs are moved."""
        if not self.silent:
            print(f"Celery uses port {self.port}, as REDIS_PORT says.", file=sys.stderr)
        self.silent = True

    def wrap(self, setting):
        """Return a property of Celery's settings whose value is moved."""
        return property(lambda settings: self.move(setting.fget(settings)))


class CeleryFinder:
    """Finds Celery's settings as Python would, and has their URLs moved once they are loaded."""

    def __init__(self, mover):
        self.mover = mover

    def find_spec(self, name, path, target=None):
        """Return how to load celery.app.utils, and None for any other module."""
        if name != "celery.app.utils":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        load = spec.loader.exec_module

        def load_and_move(module):
            load(module)
            settings = module.Settings
            settings.broker_url = self.mover.wrap(settings.broker_url)
            settings.result_backend = self.mover.wrap(settings.result_backend)

        spec.loader.exec_module = load_and_move
        return spec


if find_port():
    sys.meta_path.insert(0, CeleryFinder(Mover(find_port())))
