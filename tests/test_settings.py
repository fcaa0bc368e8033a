"""The environment variables and the options, and the sink that they choose."""

import pytest

from benchmarkai.fifo import FifoSink
from benchmarkai.settings import open_sink
from benchmarkai.stdout import StdoutSink
from tests.helpers import run_python

EMIT = "import benchmarkai; benchmarkai.emit({'a': 1})"


@pytest.mark.parametrize("mode", ["stdout", "STDOUT", "Stdout", ""])
def test_stdout_mode_in_any_case_of_letters(mode):
    assert run_python(EMIT, env={"BENCHMARK_AI": mode}) == (0, '{"a": 1}\n', "")


@pytest.mark.parametrize("mode", ["fifo", "FIFO", "Fifo"])
def test_fifo_mode_in_any_case_of_letters(mode, fifo):
    assert run_python(EMIT, env=dict(fifo.env(), BENCHMARK_AI=mode)) == (0, "", "")
    assert fifo.read() == '{"a": 1}\n'


BAD = [
    ("BENCHMARK_AI", "pigeon", "set it to stdout or fifo"),
    ("BENCHMARK_AI_FIFO_MAX_WAIT_TIME", "soon", "set it to a number of seconds"),
    ("BENCHMARK_AI_FIFO_MAX_WAIT_TIME", "-1", "set it to a number of seconds"),
    ("BENCHMARK_AI_FIFO_MAX_WAIT_TIME", "nan", "set it to a number of seconds"),
    ("BENCHMARK_AI_FIFO_MAX_WAIT_TIME", "inf", "set it to a number of seconds"),
    ("BENCHMARK_AI_FIFO_WAIT_TIME_STEP", "1s", "set it to a number of seconds"),
    ("BENCHMARK_AI_FIFO_WAIT_TIME_STEP", "-0.5", "set it to a number of seconds"),
    ("BENCHMARK_AI_FIFO_WAIT_TIME_STEP", "0", "set it to more than 0"),
]


@pytest.mark.parametrize("variable, value, remedy", BAD)
def test_a_bad_variable_is_rejected_by_name(variable, value, remedy):
    with pytest.raises(ValueError) as caught:
        open_sink(environ=dict({"BENCHMARK_AI": "fifo"}, **{variable: value}))
    assert str(caught.value).startswith("%s is %r: %s" % (variable, value, remedy))


@pytest.mark.parametrize("variable, value, remedy", BAD)
def test_a_bad_option_is_rejected_by_its_own_name(variable, value, remedy):
    options = dict({"BENCHMARK_AI": ("--mode", "fifo")}, **{variable: ("--option", value)})
    with pytest.raises(ValueError) as caught:
        open_sink(options, environ={})
    assert str(caught.value).startswith("--option is %r: %s" % (value, remedy))


def test_the_defaults_of_fifo_mode():
    sink = open_sink(environ={"BENCHMARK_AI": "fifo", "BENCHMARK_AI_FIFO_FILEPATH": ""})
    assert (sink.path, sink.max_wait, sink.step) == ("/tmp/benchmark-ai-fifo", 10, 0.5)


ENVIRON = {
    "BENCHMARK_AI": "fifo",
    "BENCHMARK_AI_FIFO_FILEPATH": "/elsewhere",
    "BENCHMARK_AI_FIFO_MAX_WAIT_TIME": "0",
    "BENCHMARK_AI_FIFO_WAIT_TIME_STEP": "1e-3",
}


def test_the_settings_of_fifo_mode():
    sink = open_sink(environ=ENVIRON)
    assert (sink.path, sink.max_wait, sink.step) == ("/elsewhere", 0, 0.001)


def test_options_override_variables():
    options = {
        "BENCHMARK_AI_FIFO_FILEPATH": ("--fifo", "/option"),
        "BENCHMARK_AI_FIFO_MAX_WAIT_TIME": ("--max-wait", "7"),
    }
    sink = open_sink(options, environ=ENVIRON)
    assert type(sink) is FifoSink
    assert (sink.path, sink.max_wait, sink.step) == ("/option", 7, 0.001)
    assert type(open_sink({"BENCHMARK_AI": ("--mode", "stdout")}, environ=ENVIRON)) is StdoutSink
