"""The examples work as they are, as far as that can be tried without containers and systemd."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from tests.helpers import (
    BAI_DAEMON,
    ROOT,
    finish,
    is_installed,
    path_with_programs,
    read_text,
    run,
    start,
    wait_until,
)

# One Python is enough: the one that has what the other tests with servers need.
yaml = pytest.importorskip("yaml", reason="bin/test -e coverage tries the examples")

pytestmark = pytest.mark.skipif(sys.version_info < (3, 9), reason="bai-daemon needs Python 3.9")

EXAMPLES = os.path.join(ROOT, "examples")


def read(name):
    return read_text("examples", name)


README = read("README.md")
STARTS = dict(re.findall(r"^\| \[([\w.-]+)\].*\| `(.*)` \|$", README, re.MULTILINE))
# README.md links to each of them.
FILES = re.findall(r"\]\(([\w.-]+)\)", README)
COMPOSE = yaml.safe_load(read("docker-compose.yml"))["services"]
JOB = yaml.safe_load(read("kubernetes.yaml"))
POD = JOB["spec"]["template"]["spec"]
(JOB_DAEMON,), (JOB_BENCHMARK,) = POD["initContainers"], POD["containers"]
DOCKERFILE = read("Dockerfile").replace("\\\n", "")
UNIT = read("bai-daemon.service").replace("\\\n", "")
UNIT_DAEMON = shlex.split(re.search(r"^ExecStart=\S*/(.*)$", UNIT, re.MULTILINE).group(1))

NAMES = {
    "train.py": {"train.epoch", "train.loss", "train.seconds"},
    "benchmark.sh": {"sort.microseconds"},
    "benchmark.R": {"solve.seconds"},
    "benchmark.cpp": {"sort.seconds"},
    "hyperfine.sh": {"train.seconds"},
    "pytest-benchmark.sh": {"test_sum.seconds"},
    "google-benchmark.sh": {"Sum.ns"},
}
SLOW = {"benchmark.cpp", "google-benchmark.sh", "hyperfine.sh"}
NEEDED = {
    "benchmark.R": {"Rscript"},
    "benchmark.cpp": {"g++"},
    "hyperfine.sh": {"hyperfine", "jq"},
    "pytest-benchmark.sh": {"jq"},
    "google-benchmark.sh": {"g++", "jq"},
}
# Variables of google-benchmark, of pytest and of the daemon that save time.
QUICK = {
    "BENCHMARK_MIN_TIME": "0.01",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_ADDOPTS": "-p pytest_benchmark.plugin --benchmark-max-time=0.01",
    "BAI_DAEMON_FLUSH_INTERVAL": "0.05",
}

# The options of other programs.
OTHER_OPTIONS = {
    "--benchmark-json",
    "--benchmark_format",
    "--build",
    "--command-name",
    "--export-json",
    "--from-file",
    "--no-cache-dir",
    "--now",
    "--numeric-sort",
    "--reverse",
    "--rm",
    "--runs",
    "--shell",
    "--system",
    "--uid",
}


def need(program):
    if not is_installed(program):
        pytest.skip("%s is not installed" % program)


@pytest.fixture
def folder(tmpdir):
    """A copy of the examples, in which programs leave their files."""
    folder = tmpdir.join("examples")
    shutil.copytree(EXAMPLES, str(folder))
    return folder


@pytest.fixture
def path(tmpdir):
    return path_with_programs(tmpdir.join("bin"))


def test_the_readme_lists_every_example():
    # But not folders, nor the programs that g++ may have left there.
    found = [name for name in os.listdir(EXAMPLES) if "." in name[1:] or name == "Dockerfile"]
    assert sorted(FILES + ["README.md"]) == sorted(found)
    assert set(STARTS) == set(NAMES)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in sorted(NAMES)]
)
def test_a_program_publishes_its_metrics(name, folder, path):
    for program in NEEDED.get(name, ()):
        need(program)
    if name == "google-benchmark.sh" and not os.path.exists("/usr/include/benchmark/benchmark.h"):
        pytest.skip("libbenchmark-dev is not installed")
    if name == "pytest-benchmark.sh":
        pytest.importorskip("pytest_benchmark", reason="pip install pytest-benchmark")
    result = run(["sh", "-c", STARTS[name]], cwd=str(folder), env=dict(QUICK, PATH=path))
    assert result.code == 0, result
    records = [json.loads(line) for line in result.out.splitlines()]
    assert records
    assert all(set(record) == NAMES[name] for record in records)
    # R's clock has steps of a millisecond.
    assert all(value >= 0 for record in records for value in record.values())


def test_the_loss_of_the_training_falls_to_the_variance_of_the_noise(folder, path):
    result = run(["python", "train.py"], cwd=str(folder), env={"PATH": path})
    losses = [json.loads(line)["train.loss"] for line in result.out.splitlines()]
    assert len(losses) == 10
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(0.1**2, rel=0.02)


@pytest.mark.parametrize("name", FILES)
def test_every_option_and_variable_exists(name):
    from benchmarkai.command.options import bai_emit
    from benchmarkai.daemon.cli import bai_daemon

    commands = [bai_emit] + [bai_daemon.get_command(None, word) for word in ("influxdb", "status")]
    parameters = [parameter for command in commands for parameter in command.params]
    options = {option for parameter in parameters for option in parameter.opts}
    variables = {parameter.envvar for parameter in parameters} | {"BENCHMARK_AI"}
    text = read(name)
    assert set(re.findall(r"(?<![\w-])--\w[\w-]*", text)) <= options | OTHER_OPTIONS
    assert set(re.findall(r"\b(?:BAI_DAEMON|BENCHMARK_AI)(?:_\w+)?\b", text)) <= variables


def test_the_job_fits_the_schemas_of_the_first_kubernetes_with_sidecars_and_of_the_latest():
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate"
    )
    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(JOB, version, strict=True)


def test_the_compose_file_fits_the_schema():
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    options = ["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    result = run([sys.executable, "-m", "check_jsonschema"] + options, cwd=EXAMPLES)
    assert result.code == 0, result


def test_hadolint_finds_nothing_in_the_dockerfile():
    need("hadolint")
    # It takes the folder of the source for a package of PyPI, whose version is to be pinned.
    assert run(["hadolint", "--ignore", "DL3013", "Dockerfile"], cwd=EXAMPLES) == (0, "", "")


def test_systemd_finds_nothing_in_the_unit(tmpdir):
    need("systemd-analyze")
    tmpdir.join("bai-daemon").mksymlinkto(BAI_DAEMON)  # whose path may have a space
    unit = read("bai-daemon.service").replace(
        "/opt/bai-daemon/bin/bai-daemon", str(tmpdir.join("bai-daemon"))
    )
    tmpdir.join("bai-daemon.service").write_text(unit, "utf-8")
    result = run(["systemd-analyze", "verify", "bai-daemon.service"], cwd=str(tmpdir))
    assert result == (0, "", "")


@pytest.mark.slow
def test_the_image_has_all_that_the_installation_needs(tmpdir):
    for module in ("setuptools", "wheel"):
        pytest.importorskip(module)  # offline, pip cannot get them for the build
    source = tmpdir.ensure("source", dir=True)
    copied = re.findall(r"^COPY (.*) (\S+)$", DOCKERFILE.split("RUN pip install")[0], re.MULTILINE)
    assert copied
    for names, target in copied:
        for name in names.split():
            if os.path.isdir(os.path.join(ROOT, name)):
                shutil.copytree(os.path.join(ROOT, name), str(source.join(target)))
            else:
                shutil.copy(os.path.join(ROOT, name), str(source.join(target)))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(tmpdir.join("target")), "."]
    assert run(command, cwd=str(source)).code == 0
    result = run(
        [str(tmpdir.join("target", "bin", "bai-emit")), "alexnet.latency=0.42"],
        env={"PYTHONPATH": str(tmpdir.join("target"))},
    )
    assert result == (0, '{"alexnet.latency": 0.42}\n', "")


def seconds(text):
    return float(str(text).rstrip("s"))


def shutdown_timeout(arguments):
    return seconds(re.search(r"--shutdown-timeout[= ](\d+)", " ".join(arguments)).group(1))


def test_whoever_stops_the_daemon_waits_longer_than_its_shutdown_timeout():
    (unit_limit,) = re.findall(r"^TimeoutStopSec=(.*)$", UNIT, re.MULTILINE)
    for arguments, limit in (
        (JOB_DAEMON["command"], POD["terminationGracePeriodSeconds"]),
        (COMPOSE["daemon"]["entrypoint"], COMPOSE["daemon"]["stop_grace_period"]),
        (UNIT_DAEMON, unit_limit),
    ):
        assert shutdown_timeout(arguments) < seconds(limit)


def in_job():
    """Return the arguments of the daemon, of the benchmark and of the probe, and variables."""
    variables = {variable["name"]: variable["value"] for variable in JOB_BENCHMARK["env"]}
    probe = JOB_DAEMON["readinessProbe"]["exec"]["command"]
    return JOB_DAEMON["command"], JOB_BENCHMARK["command"], probe, variables


def in_compose():
    daemon, benchmark = COMPOSE["daemon"], COMPOSE["benchmark"]
    probe = daemon["healthcheck"]["test"]
    assert probe[0] == "CMD"
    return daemon["entrypoint"], benchmark["command"], probe[1:], benchmark["environment"]


def in_unit():
    # Its comment shows a benchmark.
    (words,) = re.findall(r"^# +(BENCHMARK_AI=.*) my_benchmark$", UNIT, re.MULTILINE)
    variables = dict(word.split("=") for word in words.split())
    spool = UNIT_DAEMON[UNIT_DAEMON.index("--spool") + 1]
    probe = ["bai-daemon", "status", "--spool", spool]
    return UNIT_DAEMON, ["python", "train.py"], probe, variables


@pytest.fixture
def place(tmpdir, server):
    """A function that puts the files of the examples into folders of the test."""
    places = {"http://victoria-metrics:8428": server.url, "http://localhost:8428": server.url}
    for name in (
        "/run/benchmark",
        "/run/bai-daemon",
        "/run/secrets/bai-daemon",
        "/var/lib/bai-daemon",
        "/var/spool/bai-daemon",
    ):
        places[name] = str(tmpdir.ensure("root" + name, dir=True))
    tmpdir.join("root/run/secrets/bai-daemon/password").write("secret\n")

    def call(arguments):
        return [
            re.sub("|".join(sorted(places)), lambda found: places[found.group()], argument)
            for argument in arguments
        ]

    return call


@pytest.fixture
def server(tmpdir):
    """VictoriaMetrics, with the options that docker-compose.yml gives it."""
    from tests.daemon.backends.servers import VictoriaMetrics, request

    class Server(VictoriaMetrics):
        def command(self):
            command = VictoriaMetrics.command(self)
            return command[:1] + COMPOSE["victoria-metrics"]["command"] + command[1:]

        def count(self):
            request(self.url + "/internal/force_flush")
            parameters = {"match[]": '{db="benchmarks"}'}
            lines = request(self.url + "/api/v1/export", parameters).splitlines()
            series = [json.loads(line) for line in lines]
            return {found["metric"]["__name__"]: len(found["values"]) for found in series}

    server = Server(tmpdir.ensure("server", dir=True))
    yield server
    server.stop()


TRAINED = {"train.epoch": 10, "train.loss": 10, "train.seconds": 10}


@pytest.mark.slow
@pytest.mark.parametrize("arrangement", [in_job, in_compose, in_unit])
def test_what_a_benchmark_beside_the_daemon_publishes_is_in_the_server(
    arrangement, folder, path, place, server
):
    daemon, benchmark, probe, variables = arrangement()
    env = {name: place([value])[0] for name, value in variables.items()}
    daemon = start(place(daemon), env=dict(QUICK, PATH=path), stderr=subprocess.PIPE)
    result = run(benchmark, cwd=str(folder), env=dict(env, PATH=path))
    assert result == (0, "", "")
    wait_until(lambda: server.count() == TRAINED)
    result = run(place(probe), env={"PATH": path})
    assert result.code == 0, result
    daemon.send_signal(signal.SIGTERM)
    result = finish(daemon)
    assert result.code == 0, result


@pytest.mark.slow
def test_what_the_command_of_the_image_publishes_is_in_the_server(folder, path, place, server):
    entrypoint, command = (
        json.loads(re.search(r"^%s (.*)$" % word, DOCKERFILE, re.MULTILINE).group(1))
        for word in ("ENTRYPOINT", "CMD")
    )
    env = dict(QUICK, PATH=path, BAI_DAEMON_URL=server.url)
    result = run(place(entrypoint + command), cwd=str(folder), env=env)
    assert result.code == 0, result
    wait_until(lambda: server.count() == TRAINED)
