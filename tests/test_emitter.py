"""emit() as a program calls it, and the modules that this loads."""

import collections
import sys

import pytest

import benchmarkai
from benchmarkai._compat import PY2
from tests.helpers import run_python

if PY2:
    from collections import Mapping
else:
    from collections.abc import Mapping


@pytest.fixture(autouse=True)
def no_sink_yet(monkeypatch):
    monkeypatch.setattr(benchmarkai, "_sinks", [])


def test_the_package_exports_the_public_names_only():
    assert sorted(benchmarkai.__all__) == [
        "FifoError",
        "FifoNotCreatedInTimeError",
        "FifoNotReadInTimeError",
        "NotAFifoError",
        "__version__",
        "emit",
    ]


@pytest.mark.parametrize("value", [None, 0.42, "a=1", [("a", 1)], {"a"}, object()])
def test_emit_rejects_anything_but_a_mapping(value, capsys):
    with pytest.raises(TypeError) as caught:
        benchmarkai.emit(value)
    assert "of type %s: give a mapping" % type(value).__name__ in str(caught.value)
    assert capsys.readouterr().out == ""


def test_emit_rejects_an_empty_mapping():
    with pytest.raises(ValueError) as caught:
        benchmarkai.emit({})
    assert "no metrics" in str(caught.value)


class Pairs(Mapping):
    """A mapping that may repeat a name, as HTTP headers do."""

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
def test_emit_accepts_any_mapping(metrics, capsys):
    benchmarkai.emit(metrics)
    assert capsys.readouterr().out == '{"a": 1}\n'


def test_emit_rejects_a_mapping_that_repeats_a_name(capsys):
    with pytest.raises(ValueError) as caught:
        benchmarkai.emit(Pairs(("a", 1), ("a", 2)))
    assert "'a' is given twice" in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not PY2, reason="only Python 2 has two kinds of text")
def test_emit_rejects_a_name_that_is_given_as_text_and_as_utf8():
    with pytest.raises(ValueError):
        benchmarkai.emit({b"\xc3\xa9": 1, b"\xc3\xa9".decode("utf-8"): 2})


def test_nothing_is_written_if_any_metric_is_bad(capsys):
    with pytest.raises(ValueError) as caught:
        benchmarkai.emit(collections.OrderedDict([("good", 1), ("bad", float("nan"))]))
    assert "'bad' is nan" in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_settings_are_read_at_the_first_emit_not_at_import(fifo):
    code = (
        "import os; os.environ['BENCHMARK_AI'] = 'pigeon'\n"
        "import benchmarkai\n"
        "os.environ.update(%r)\n"
        "benchmarkai.emit({'a': 1})\n"
        "os.environ['BENCHMARK_AI'] = 'stdout'\n"
        "benchmarkai.emit({'b': 2})\n"
    ) % fifo.env()
    result = run_python(code)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert fifo.read() == '{"a": 1}\n{"b": 2}\n'


LAST_WORDS = """
import collections
from benchmarkai import emit

class Last(object):
    def __init__(self, name): self.name = name
    def __del__(self, emit=emit, mapping=collections.OrderedDict):
        emit({self.name: 1}); emit(mapping([(self.name, 2)]))

%s
last = Last("last"); cycle = Last(b"gr\\xc3\\xb6\\xc3\\x9fe".decode("utf-8")); cycle.itself = cycle
"""


@pytest.mark.parametrize("mode", ["stdout", "fifo"])
@pytest.mark.parametrize("before", ["", "emit({'first': 0})"])
def test_the_last_words_of_an_ending_program_are_published(fifo, mode, before):
    result = run_python(LAST_WORDS % before, env=dict(fifo.env(), BENCHMARK_AI=mode))
    assert (result.code, result.err) == (0, "")
    lines = (result.out if mode == "stdout" else fifo.read()).splitlines()
    expected = ['{"first": 0}'] if before else []
    expected += ['{"last": 1}', '{"last": 2}']
    if not PY2:  # which leaves cycles with a __del__() alone
        expected += ['{"gr\\u00f6\\u00dfe": 1}', '{"gr\\u00f6\\u00dfe": 2}']
    assert sorted(lines) == sorted(expected)


AT_EACH_LINE = """
import os, sys
from benchmarkai import emit
os.environ.update(%r)

%s

def trace(frame, event, argument):
    global left
    if "benchmarkai" not in frame.f_code.co_filename:
        return None
    left -= event == "line"
    if not left:
        sys.settrace(None)
        try: emit({"handler": line})
        except EnvironmentError as error:
            if "set BENCHMARK_AI before the program starts" not in str(error): raise
            os.write(2, b"told")
    return trace

line, left = 0, 0
while left <= 0:  # until emit() has fewer lines
    line += 1
    child = os.fork()
    left = line
    if not child:
        sys.settrace(trace)
        emit({"program": line})
        sys.settrace(None)
        os._exit(0 if left <= 0 else 5)
    status = os.waitpid(child, 0)[1]
    assert status in (0, 5 << 8), (line, status)
    left = status
print(line - 1)
"""


@pytest.mark.parametrize("when", ["before the import", "after the import", "after an emit"])
@pytest.mark.parametrize("mode", ["stdout", "fifo"])
def test_a_signal_handler_may_emit_anywhere_in_an_emit(fifo, tmpdir, mode, when):
    variables = dict(fifo.env(), BENCHMARK_AI=mode)
    late = variables if when == "after the import" else {}
    before = "emit({'program': 0}); emit({'program': 0})" if when == "after an emit" else ""
    result = run_python(AT_EACH_LINE % (late, before), env=None if late else variables)
    assert result.code == 0, result.err
    text = result.out + fifo.read()
    count = int([line for line in result.out.splitlines() if line.isdigit()][-1])
    assert count > 20
    told = result.err.count("told")
    assert result.err == "told" * told
    assert told == 0 or (mode, when) == ("fifo", "after the import")
    lines = [line for line in text.splitlines() if line.startswith("{")]
    assert lines.count('{"program": 1}') == 1
    assert len([line for line in lines if "program" in line]) == count + 1 + before.count("emit")
    assert len([line for line in lines if "handler" in line]) == count - told


SLOW = {"click", "io", "json", "logging", "re"}


def imported_by(code, *arguments):
    """Return the names of the modules that the code loads in addition to Python's own start."""
    watch = (
        "import sys; before = set(sys.modules)\n"
        "try:\n    %s\n"
        "except SystemExit: pass\n"
        # Python 2 also has an entry, None, for what a package looked for in itself in vain.
        "loaded = [name for name, module in sys.modules.items() if module is not None]\n"
        "sys.stderr.write(' '.join(set(loaded) - before))\n"
    )
    result = run_python(watch % code, *arguments)
    assert result.code == 0
    names = set(result.err.split()) - set(sys.builtin_module_names)
    # On Python 2, os and the codecs load small modules of the standard library by themselves.
    return {name for name in names if name.startswith("benchmarkai") or not PY2 or name in SLOW}


LIBRARY = {
    "benchmarkai",
    "benchmarkai._compat",
    "benchmarkai.errors",
    "benchmarkai.metrics",
    "benchmarkai.settings",
    "benchmarkai.stdout",
}


def test_import_loads_next_to_nothing():
    assert imported_by("import benchmarkai") == LIBRARY


def test_emit_loads_next_to_nothing():
    names = imported_by("from benchmarkai import emit; emit({'a': 0.42})")
    assert names == LIBRARY


def test_a_plain_call_of_the_command_loads_next_to_nothing():
    code = "from benchmarkai.command.main import main; main()"
    names = imported_by(code, "alexnet.latency=0.42", "alexnet.batchsize=16")
    assert names - LIBRARY == {
        "benchmarkai.command",
        "benchmarkai.command.main",
        "benchmarkai.command.words",
    }


def test_emit_to_a_pipe_loads_little(fifo):
    code = "from benchmarkai import emit; import os; os.environ.update(%r); emit({'a': 1})"
    names = imported_by(code % fifo.env())
    assert names - LIBRARY - {"fcntl", "select"} == {"benchmarkai.fifo", "benchmarkai.polling"}
