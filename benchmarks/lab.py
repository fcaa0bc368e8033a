"""What the benchmarks run: this project and its peers, installed as users install them."""

import os
import shutil
import subprocess
import sys
import venv

from benchmarks.processes import ENVIRONMENT

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Lab:
    """Programs, and a folder for files.

    python: that of an environment in which this project is installed.
    released, peers: folders with version 0.1 of this project, and with the libraries of others.
    """

    def __init__(self, folder, python=sys.executable, released=None, peers=None):
        self.folder = folder
        self.python = python
        self.released = released
        self.peers = peers
        self.missing = set()  # what is not installed, and how to install it

    def bin(self, name):
        return os.path.join(os.path.dirname(self.python), name)

    def path(self, name):
        return os.path.join(self.folder, name)

    def find(self, program, how):
        """Return the path of a program. Without it, return None and note how to install it."""
        path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
        if path is None:
            self.missing.add(f"{program} is not installed: {how}")
        return path


def install(folder):
    """Return a Lab with all that pip can install."""
    path = os.path.join(folder, "project")
    # A user's environment, without what tox's own one does at each start.
    venv.create(path, with_pip=True)
    lab = Lab(
        folder,
        os.path.join(path, "bin", "python"),
        released=os.path.join(folder, "released"),
        peers=os.path.join(folder, "peers"),
    )
    # A copy, as pip would leave files in the checkout.
    source = os.path.join(folder, "source")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
    _pip(lab, source)
    _pip(lab, "--target", lab.released, "benchmarkai-client-lib==0.1")
    _pip(lab, "--target", lab.peers, "datadog", "statsd")
    return lab


def _pip(lab, *arguments):
    command = [lab.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True, env=ENVIRONMENT, stdout=sys.stderr)
