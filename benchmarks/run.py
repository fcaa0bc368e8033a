"""The speed of this project compared with the alternatives, on the same work in the same run.

python benchmarks/run.py FOLDER prints a table; run by tox -e bench. hyperfine times whole
processes, and pyperf times calls, in rounds in which each has its turn. Every library is installed
in an environment of its own in the folder.
"""

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import venv

import pyperf

HERE = os.path.dirname(os.path.abspath(__file__))
ROUNDS = 10
LINES = 500000
WORDS = "alexnet.latency=0.42"

ENVIRONMENTS = {
    "ours": [os.path.dirname(HERE), "pyperf"],
    "released": ["benchmarkai-client-lib==0.1", "pyperf"],
    "peers": ["statsd", "datadog", "prometheus_client", "pyperf"],
}

# This process reads the pipe to which all calls write, as a FIFO or as stdout. It reads as daemons
# do: large blocks, from a pipe that holds what is written in between. A reader that wakes up for
# every line, or a pipe that is sometimes full, would slow down the writer, and be measured instead.
READER = """
import fcntl, os, time
pipe = os.open(os.environ["BENCHMARK_AI_FIFO_FILEPATH"], os.O_RDWR | os.O_NONBLOCK)
F_SETPIPE_SZ = 1031  # fcntl(2), Linux
fcntl.fcntl(pipe, F_SETPIPE_SZ, 1 << 20)
print("ready", flush=True)
while True:
    try: os.read(pipe, 1 << 16)
    except BlockingIOError: time.sleep(0.0005)
"""

# Times the import alone: the time of a whole process varies by more than our import takes.
IMPORT = """
import time
start = time.perf_counter()
import benchmarkai
print(time.perf_counter() - start)
"""
IMPORTS = 10

# Started with -I -S, because the peak of a child is at least the size of the process that forked.
PEAK = """
import os, sys
null = os.open(os.devnull, os.O_WRONLY)
file = [(os.POSIX_SPAWN_DUP2, null, 1)]
if sys.argv[1]: file.append((os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0))
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, file_actions=file)
print(os.wait4(pid, 0)[2].ru_maxrss)
"""


class Bench:
    def __init__(self, folder):
        self.folder = folder
        self.times = {}  # seconds, by name
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("BENCHMARK_AI")}
        for name in ("PYTHONUNBUFFERED", "PYTHONPATH"):
            self.env.pop(name, None)
        self.env["BENCH_FOLDER"] = folder

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def install(self):
        for name, packages in ENVIRONMENTS.items():
            shutil.rmtree(self.path(name), ignore_errors=True)
            venv.create(self.path(name), with_pip=True)
            pip = [self.path(name, "bin", "python"), "-m", "pip", "install", "--quiet"]
            subprocess.run(pip + packages, check=True, env=self.env)

    def processes(self):
        """Return the command of each whole process, and its input."""
        ours = self.path("ours", "bin", "")
        json_lines, word_lines = self.path("lines.json"), self.path("lines.txt")
        with open(json_lines, "w") as objects, open(word_lines, "w") as words:
            for number in range(LINES):
                value = 0.42 + number / LINES
                objects.write(json.dumps({"alexnet.latency": value}) + "\n")
                words.write("alexnet.latency=%r\n" % value)
        return {
            "bai-emit": ([ours + "bai-emit", WORDS], None),
            "python -c pass": ([ours + "python", "-c", "pass"], None),
            "plain click": ([ours + "python", os.path.join(HERE, "plain_click.py"), WORDS], None),
            "jq -n": (["jq", "-n", "-c", '{"alexnet.latency": 0.42}'], None),
            "dog": ([self.path("peers", "bin", "dog"), "--version"], None),
            "bai-emit, JSON lines": ([ours + "bai-emit"], json_lines),
            "bai-emit, words": ([ours + "bai-emit"], word_lines),
            "jq, JSON lines": (["jq", "-c", "."], json_lines),
        }

    def time_processes(self, processes):
        for name, (command, file) in processes.items():
            result = self.path("hyperfine.json")
            line = " ".join(map(shlex.quote, command))
            runs = ["--runs=10", "--warmup=1"]
            if file:
                line = "sh -c %s" % shlex.quote("exec %s < %s" % (line, shlex.quote(file)))
                runs = ["--runs=1", "--warmup=0"]
            hyperfine = ["hyperfine", "-N", "--style=none", "--export-json=" + result]
            subprocess.run(
                hyperfine + runs + [line], check=True, env=self.env, stdout=subprocess.DEVNULL
            )
            with open(result) as found:
                self.times.setdefault(name, []).extend(json.load(found)["results"][0]["times"])

    def time_imports(self):
        for _ in range(IMPORTS):
            for name in ("ours", "released"):
                command = [self.path(name, "bin", "python"), "-c", IMPORT]
                # Not in the checkout, or that would be imported.
                done = subprocess.run(
                    command, check=True, env=self.env, cwd=self.folder, stdout=subprocess.PIPE
                )
                self.times.setdefault("import, " + name, []).append(float(done.stdout))

    def time_call(self, environment, work, mode="stdout"):
        pipe = self.path("pipe")
        env = dict(self.env, BENCHMARK_AI=mode, BENCHMARK_AI_FIFO_FILEPATH=pipe)
        result = self.path("pyperf.json")
        if not os.path.exists(pipe):
            os.mkfifo(pipe)
        if os.path.exists(result):
            os.unlink(result)
        reader = subprocess.Popen([sys.executable, "-c", READER], env=env, stdout=subprocess.PIPE)
        reader.stdout.readline()
        python = self.path(environment, "bin", "python")
        options = ["--quiet", "--processes=1", "--values=4", "--warmups=1", "--inherit-environ"]
        options.append(",".join(set(env) - {"PYTHONHOME"}))
        try:
            subprocess.run(
                [python, os.path.join(HERE, "calls.py"), work, "--output=" + result] + options,
                check=True,
                env=env,
                stdout=subprocess.DEVNULL,
            )
        finally:
            reader.kill()
            reader.wait()
        name = work if environment != "released" else "released: " + work
        self.times.setdefault(name, []).append(pyperf.Benchmark.load(result).median())

    def time_calls(self):
        self.time_call("ours", "emit one, stdout")
        self.time_call("ours", "print(json.dumps(one), flush=True)")
        for work in ("emit one, FIFO", "emit twenty, FIFO"):
            self.time_call("ours", work, "fifo")
            self.time_call("released", work, "fifo")
        self.time_call("ours", "os.write of the same bytes", "fifo")
        for work in ("DogStatsD", "pystatsd", "prometheus_client, textfile"):
            self.time_call("peers", work)

    def peak(self, command, file):
        """Return the peak memory of the process, in KiB."""
        python = [sys.executable, "-I", "-S", "-c", PEAK, file or ""]
        found = [
            int(subprocess.run(python + command, check=True, env=self.env, stdout=-1).stdout)
            for _ in range(3)
        ]
        return statistics.median(found)

    def print_table(self, processes):
        seconds = {name: statistics.median(times) for name, times in self.times.items()}
        peaks = {
            name: self.peak(*processes[name])
            for name in ("bai-emit", "bai-emit, JSON lines", "bai-emit, words", "python -c pass")
        }
        rows = [
            ("`bai-emit alexnet.latency=0.42`", "bai-emit", "python -c pass", 1.20),
            ("the same", "bai-emit", "plain click", 0.30),
            ("the same", "bai-emit", "jq -n", 0.70),
            ("the same", "bai-emit", "dog", None),
            ("`import benchmarkai`", "import, ours", "import, released", 0.15),
            (
                "one `emit`, stdout, flushed",
                "emit one, stdout",
                "print(json.dumps(one), flush=True)",
                0.60,
            ),
            ("one `emit`, FIFO", "emit one, FIFO", "released: emit one, FIFO", 0.50),
            ("the same", "emit one, FIFO", "os.write of the same bytes", 2.0),
            ("one `emit` of 20, FIFO", "emit twenty, FIFO", "released: emit twenty, FIFO", 0.70),
            ("one `emit`, FIFO", "emit one, FIFO", "DogStatsD", None),
            ("the same", "emit one, FIFO", "pystatsd", None),
            ("the same", "emit one, FIFO", "prometheus_client, textfile", None),
            ("500,000 JSON lines", "bai-emit, JSON lines", "jq, JSON lines", 0.60),
            ("500,000 lines of words", "bai-emit, words", "jq, JSON lines", 0.40),
        ]
        print("| work | this project | compared with | its time | ratio | at most |")
        print("|---|---|---|---|---|---|")

        def row(work, ours, peer, theirs, ratio, bound):
            limit = "" if bound is None else "%.2f" % bound
            print("| %s | %s | %s | %s | %.2f | %s |" % (work, ours, peer, theirs, ratio, limit))

        for work, ours, peer, bound in rows:
            ratio = seconds[ours] / seconds[peer]
            row(work, shown(seconds[ours]), peer, shown(seconds[peer]), ratio, bound)
        for name in ("bai-emit", "bai-emit, JSON lines", "bai-emit, words"):
            texts = ["%.1f MiB" % (peaks[key] / 1024) for key in (name, "python -c pass")]
            ratio = peaks[name] / peaks["python -c pass"]
            row("peak memory of " + name, texts[0], "python -c pass", texts[1], ratio, 1.25)


def shown(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return "%.3g %s" % (seconds * factor, unit)


def main(folder):
    os.makedirs(folder, exist_ok=True)
    missing = [program for program in ("hyperfine", "jq") if not shutil.which(program)]
    if missing:
        sys.exit("not installed: %s: apt-get install hyperfine jq" % ", ".join(missing))
    bench = Bench(folder)
    bench.install()
    processes = bench.processes()
    for number in range(ROUNDS):
        print("round %d of %d" % (number + 1, ROUNDS), file=sys.stderr, flush=True)
        bench.time_processes(processes)
        bench.time_imports()
        bench.time_calls()
    bench.print_table(processes)


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
