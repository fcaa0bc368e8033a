"""The backends: one module each, named as on the command line, with a class Backend."""

import importlib
from typing import List, Type

from benchmarkai.daemon.backends.base import Backend

# In the order of the help.
NAMES: List[str] = [
    "stdout",
    "elasticsearch",
    "opensearch",
    "cloudwatch",
    "prometheus",
    "influxdb",
    "otlp",
    "kafka",
]


def load(name: str) -> Type[Backend]:
    """Import the module of the backend, and return its class."""
    module = importlib.import_module("benchmarkai.daemon.backends." + name)
    backend: Type[Backend] = module.Backend
    return backend
