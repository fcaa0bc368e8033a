"""emit() and its settings, as a program uses them."""

import collections
import pkgutil
import subprocess
import sys

import pytest
from conftest import run_python

import benchmarkai
from benchmarkai import emitter
from benchmarkai._compat import PY2
from benchmarkai.emitter import open_sink

if PY2:
    from collections import Mapping
else:
    from collections.abc import Mapping


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(emitter, "_sinks", [])


def test_the_public_names():
    assert sorted(benchmarkai.__all__) == [
        "FifoError",
        "FifoNotCreatedInTimeError",
        "FifoNotReadInTimeError",
        "NotAFifoError",
        "__version__",
        "emit",
    ]


@pytest.mark.parametrize("value", [None, 0.42, "a=1", [("a", 1)], {"a"}, object()])
def test_what_is_no_mapping_is_refused(value, capsys):
    with pytest.raises(TypeError) as caught:
        benchmarkai.emit(value)
    assert "of type %s: give a mapping" % type(value).__name__ in str(caught.value)
    assert capsys.readouterr().out == ""


def test_an_empty_mapping_is_refused():
    with pytest.raises(ValueError) as caught:
        benchmarkai.emit({})
    assert "no metrics" in str(caught.value)


class Pairs(Mapping):
    """A mapping that may have a name twice, as those of HTTP headers do."""

    def __init__(self, *pairs):
        self.pairs = pairs

    def __getitem__(self, name):
        return dict(self.pairs)[name]

    def __iter__(self):
        return iter([name for name, _ in self.pairs])

    def __len__(self):
        return len(self.pairs)

    def items(self):
        return iter(self.pairs)


@pytest.mark.parametrize(
    "metrics",
    [
        {"a": 1},
        collections.OrderedDict([("a", 1)]),
        collections.Counter("a"),
        collections.defaultdict(int, a=1),
        Pairs(("a", 1)),
    ],
)
def test_any_mapping_is_fine(metrics, capsys):
    benchmarkai.emit(metrics)
    assert capsys.readouterr().out == '{"a": 1}\n'


def test_a_mapping_with_a_name_twice_is_refused(capsys):
    with pytest.raises(ValueError) as caught:
        benchmarkai.emit(Pairs(("a", 1), ("a", 2)))
    assert "'a' is given twice" in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not PY2, reason="only Python 2 has two kinds of text")
def test_a_name_as_text_and_as_utf8_is_refused():
    with pytest.raises(ValueError):
        benchmarkai.emit({b"\xc3\xa9": 1, b"\xc3\xa9".decode("utf-8"): 2})


def test_a_bad_metric_means_that_nothing_is_written(capsys):
    with pytest.raises(ValueError) as caught:
        benchmarkai.emit(collections.OrderedDict([("good", 1), ("bad", float("nan"))]))
    assert "'bad' is nan" in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["stdout", "STDOUT", "Stdout", ""])
def test_stdout_in_any_case_of_letters(mode):
    code = "import benchmarkai; benchmarkai.emit({'a': 1})"
    assert run_python(code, env={"BENCHMARK_AI": mode}).out == '{"a": 1}\n'


@pytest.mark.parametrize("mode", ["fifo", "FIFO", "Fifo"])
def test_fifo_in_any_case_of_letters(mode, pipe):
    code = "import benchmarkai; benchmarkai.emit({'a': 1})"
    result = run_python(code, env=dict(pipe.env(), BENCHMARK_AI=mode))
    assert (result.code, result.out, result.err) == (0, "", "")
    assert pipe.read() == '{"a": 1}\n'


@pytest.mark.parametrize(
    "variable, value, remedy",
    [
        ("BENCHMARK_AI", "pigeon", "set it to stdout or fifo"),
        ("BENCHMARK_AI_FIFO_MAX_WAIT_TIME", "soon", "set it to a number of seconds"),
        ("BENCHMARK_AI_FIFO_MAX_WAIT_TIME", "-1", "set it to a number of seconds"),
        ("BENCHMARK_AI_FIFO_MAX_WAIT_TIME", "nan", "set it to a number of seconds"),
        ("BENCHMARK_AI_FIFO_MAX_WAIT_TIME", "inf", "set it to a number of seconds"),
        ("BENCHMARK_AI_FIFO_WAIT_TIME_STEP", "1s", "set it to a number of seconds"),
        ("BENCHMARK_AI_FIFO_WAIT_TIME_STEP", "-0.5", "set it to a number of seconds"),
        ("BENCHMARK_AI_FIFO_WAIT_TIME_STEP", "0", "set it to more than 0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_name(variable, value, remedy):
    with pytest.raises(ValueError) as caught:
        open_sink(environ=dict({"BENCHMARK_AI": "fifo"}, **{variable: value}))
    assert str(caught.value).startswith("%s is %r: %s" % (variable, value, remedy))


def test_the_settings_of_fifo_mode_and_their_defaults():
    sink = open_sink(environ={"BENCHMARK_AI": "fifo", "BENCHMARK_AI_FIFO_FILEPATH": ""})
    assert (sink.path, sink.max_wait, sink.step) == ("/tmp/benchmark-ai-fifo", 10, 0.5)
    sink = open_sink(
        environ={
            "BENCHMARK_AI": "fifo",
            "BENCHMARK_AI_FIFO_FILEPATH": "/elsewhere",
            "BENCHMARK_AI_FIFO_MAX_WAIT_TIME": "0",
            "BENCHMARK_AI_FIFO_WAIT_TIME_STEP": "1e-3",
        }
    )
    assert (sink.path, sink.max_wait, sink.step) == ("/elsewhere", 0, 0.001)


def test_settings_are_read_at_the_first_emit_and_not_at_import(pipe):
    code = (
        "import os; os.environ['BENCHMARK_AI'] = 'pigeon'\n"
        "import benchmarkai\n"
        "os.environ.update(%r)\n"
        "benchmarkai.emit({'a': 1})\n"
        "os.environ['BENCHMARK_AI'] = 'stdout'\n"
        "benchmarkai.emit({'b': 2})\n"
    ) % pipe.env()
    result = run_python(code)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert pipe.read() == '{"a": 1}\n{"b": 2}\n'


# Python 2 also notes what a package looked for inside of itself, and did not find.
REAL = {"benchmarkai." + name for _, name, _ in pkgutil.iter_modules(benchmarkai.__path__)}
REAL |= {"benchmarkai", "click", "json", "logging", "re", "fcntl", "select", "six"}


def imported_by(code, *arguments):
    """Return the names of the modules that the code imports beyond Python's own start."""
    watch = (
        "import sys; before = set(sys.modules)\n"
        "try:\n    %s\n"
        "except SystemExit: pass\n"
        "sys.stderr.write(' '.join(set(sys.modules) - before))\n"
    )
    result = run_python(watch % code, *arguments, stderr=subprocess.PIPE)
    assert result.code == 0
    names = set(result.err.split()) - set(sys.builtin_module_names)
    return names & REAL if PY2 else names


OWN = {
    "benchmarkai",
    "benchmarkai._compat",
    "benchmarkai.emitter",
    "benchmarkai.errors",
    "benchmarkai.metrics",
}


def test_import_loads_next_to_nothing():
    assert imported_by("import benchmarkai") == OWN


def test_an_emit_loads_next_to_nothing():
    names = imported_by("from benchmarkai import emit; emit({'a': 0.42})")
    assert names - OWN == {"benchmarkai.stdout"}


def test_a_plain_call_of_the_command_loads_next_to_nothing():
    code = "from benchmarkai.command import main; main()"
    names = imported_by(code, "alexnet.latency=0.42", "alexnet.batchsize=16")
    assert names - OWN == {
        "benchmarkai.command",
        "benchmarkai.stdout",
        "benchmarkai.words",
    }


def test_an_emit_into_a_pipe_loads_little(pipe):
    code = "from benchmarkai import emit; import os; os.environ.update(%r); emit({'a': 1})"
    names = imported_by(code % pipe.env())
    assert names - OWN - {"fcntl", "select"} == {"benchmarkai.fifo", "benchmarkai.waiting"}
