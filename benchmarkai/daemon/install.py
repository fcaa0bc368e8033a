"""How to install what a backend needs, where this Python finds it."""

import os
import re
import shlex
import shutil
import sys
import sysconfig
from importlib.machinery import PathFinder
from typing import Sequence

# Packages that Debian and Ubuntu have as python3-NAME, new enough in all their releases with
# Python 3.10 or newer.
_IN_DEBIAN = {"boto3", "click", "urllib3"}


def how_to_install(requirements: Sequence[str]) -> str:
    """Return how to install them, if possible as a shell command to paste.

    It names this Python, because another one may come first in PATH, as with pipx. Where it is
    that of the system, its package manager installs packages for it.
    """
    # Not by importlib.util, which would tell the hook of setuptools that pip is being imported.
    has_pip = PathFinder.find_spec("pip") is not None
    if sys.prefix == sys.base_prefix and (_is_managed_by_system() or not has_pip):
        names = [re.split("[<>=]", requirement)[0] for requirement in requirements]
        if shutil.which("apt") and _IN_DEBIAN.issuperset(names):
            return shlex.join(["apt", "install", *(f"python3-{name}" for name in names)])
        return f"run {shlex.join(['pip', 'install', *requirements])} in a virtual environment"
    if has_pip:
        return shlex.join([sys.executable, "-m", "pip", "install", *requirements])
    # Environments of uv have no pip.
    return shlex.join(["uv", "pip", "install", "--python", sys.executable, *requirements])


def _is_managed_by_system() -> bool:
    """Return whether pip refuses to install anything for this Python: see PEP 668."""
    return os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))
