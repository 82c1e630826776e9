"""The manifests of Kubernetes in a folder, and what its published schemas say about them."""

import subprocess

import yaml

from course.chapters import ROOT

VALIDATOR = ROOT / ".venv-manifests" / "bin" / "python"


def validate(folder, version):
    """Return what is wrong with the manifests in a folder for a version of Kubernetes."""
    files = sorted(folder.glob("*.yaml"))
    command = [VALIDATOR, "-m", "kubernetes_validate", "--strict", "--quiet", "-k", version]
    done = subprocess.run(
        [*command, *(file.name for file in files)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def read_manifests(folder):
    """Return the objects in a folder, as a dict of kind and name."""
    objects = {}
    for file in sorted(folder.glob("*.yaml")):
        for found in yaml.safe_load_all(file.read_text()):
            objects[found["kind"], found["metadata"]["name"]] = found
    return objects
