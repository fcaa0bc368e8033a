"""The backends: ours, and those of other packages.

Each of ours is a module, named as on the command line, with a class Backend. Another package names
its own as an entry point.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence, Type

from benchmarkai.daemon.backends.base import Backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "benchmarkai.backends"

# What each of ours needs, as in the extras of setup.py, in the order of the help.
REQUIREMENTS: Mapping[str, Sequence[str]] = {
    "stdout": [],
    "elasticsearch": ["urllib3>=1.26"],
    "opensearch": ["urllib3>=1.26"],
    "cloudwatch": ["boto3"],
    "prometheus": ["prometheus-client>=0.14", "urllib3>=1.26"],
    "influxdb": ["urllib3>=1.26"],
    "otlp": ["opentelemetry-proto>=1.19", "urllib3>=1.26"],
    "kafka": ["confluent-kafka>=2.10"],
}
NAMES: Sequence[str] = list(REQUIREMENTS)


class LoadError(Exception):
    """The backend of another package cannot be loaded."""


def list_names() -> List[str]:
    """Return the names of all backends: first ours, then those of other packages."""
    return [*NAMES, *sorted(set(_find_entry_points()) - set(NAMES))]


def load(name: str) -> Optional[Type[Backend]]:
    """Return the class of the backend, or None if there is none of this name.

    Ours come first: to install another package changes none of them, nor the time they take to
    start.

    Raises LoadError.
    """
    if name in NAMES:
        module = importlib.import_module("benchmarkai.daemon.backends." + name)
        backend: Type[Backend] = module.Backend
        return backend
    point = _find_entry_points().get(name)
    if point is None:
        return None
    try:
        backend = point.load()
        if not (isinstance(backend, type) and issubclass(backend, Backend)):
            raise TypeError("it is not a subclass of benchmarkai.daemon.backends.base.Backend")
        if not all(hasattr(parameter, "name") for parameter in backend.options):
            raise TypeError("not all of its options are click options")
    except (Exception, SystemExit) as error:  # whatever a module does while it is imported
        reason = " ".join(str(error).split())
        raise LoadError(
            f"cannot load the backend {name!r} from {point.value}: {type(error).__name__}: {reason}"
        ) from error
    return backend


def _find_entry_points() -> Dict[str, "EntryPoint"]:
    from importlib import metadata  # takes long to import

    if sys.version_info >= (3, 10):
        found = list(metadata.entry_points(group=ENTRY_POINTS))
    else:
        found = list(metadata.entry_points().get(ENTRY_POINTS, ()))
    # Where two have the same name, the first in sys.path counts, as with modules.
    return {point.name: point for point in reversed(found)}
