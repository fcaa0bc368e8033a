# -*- coding: utf-8 -*-
"""The installed command, both in this process and in one of its own.

Each call is checked as a whole: exit code, stdout and stderr.
"""

from __future__ import unicode_literals

import errno
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

import benchmarkai
from benchmarkai._compat import PY2
from tests.helpers import (
    BAI_EMIT,
    NOT_MEASURED,
    ROOT,
    FifoReader,
    Result,
    bounded,
    finish,
    run,
    run_python,
    start,
    wait_until,
)

USAGE = "Usage: bai-emit [OPTIONS] [NAME=VALUE]...\n"
LINE = '{"a": 0.5}\n'
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.fixture
def bai_emit(script_runner, tmpdir, monkeypatch):
    """A function that runs the command through the script runner; stdin: bytes."""

    def call(*arguments, **options):
        stdin = options.pop("stdin", b"")
        for name, value in options.pop("env", {}).items():
            monkeypatch.setenv(str(name), str(value))
        assert not options
        file = tmpdir.join("stdin")
        file.write_binary(stdin)
        command = [BAI_EMIT] + [str(argument) for argument in arguments]
        # The older script runner takes each argument by itself.
        command = command if sys.version_info < (3, 7) else [command]
        with open(str(file)) as stream:
            result = bounded(lambda: script_runner.run(*command, stdin=stream))
        return Result(result.returncode, result.stdout, result.stderr)

    return call


def run_bai_emit(*arguments, **options):
    return run([BAI_EMIT] + list(arguments), **options)


@pytest.mark.parametrize(
    "arguments, out",
    [
        (["alexnet.latency=0.42"], '{"alexnet.latency": 0.42}\n'),
        (
            ["alexnet.latency=0.42", "alexnet.batchsize=16"],
            '{"alexnet.latency": 0.42, "alexnet.batchsize": 16}\n',
        ),
        (["a=b=1"], '{"a=b": 1}\n'),
        (["--", "-x=1", "--help=2"], '{"-x": 1, "--help": 2}\n'),
        (['quote"=1', "back\\slash=2"], '{"quote\\"": 1, "back\\\\slash": 2}\n'),
        (["--mode", "stdout", "a=0.5"], LINE),
        (["a=0.5", "--mode", "STDOUT"], LINE),
    ],
)
def test_arguments_are_published_as_one_line(bai_emit, arguments, out):
    assert bai_emit(*arguments) == (0, out, "")


@pytest.mark.parametrize("arguments", [[], ["-"], ["--mode", "stdout"], ["--mode", "stdout", "-"]])
def test_each_record_is_published_as_a_line(bai_emit, arguments):
    stdin = b'{"a": 0.5}\nb=1 c=2\n\n{\n"d": 3\n}\r\n'
    out = LINE + '{"b": 1, "c": 2}\n{"d": 3}\n'
    assert bai_emit(*arguments, stdin=stdin) == (0, out, "")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["loss"], "'loss' has no '=': write NAME=VALUE, such as loss=0.42"),
        (["good=1", "loss="], "'loss=' has no value: write NAME=VALUE, such as loss=0.42"),
        (["a=1", "a=2"], "'a' is given twice, the second time as 2: give each metric once"),
        (
            ["loss=0,42"],
            "the value of 'loss=0,42' has a comma: write a point, such as 0.42 (programs print it "
            "if run with LC_NUMERIC=C), and nothing between thousands",
        ),
        (["-", "a=1"], "'-' has no '=': write NAME=VALUE, such as loss=0.42"),
        (
            ["--max-wait", "soon", "a=1"],
            "--max-wait is 'soon': set it to a number of seconds, 0 or more, such as 10",
        ),
        (
            ["--wait-step", "0", "a=1"],
            "--wait-step is '0': set it to more than 0, such as 0.5",
        ),
        (["--fifo", "", "a=1"], "--fifo is empty: give the path of the pipe"),
    ],
)
def test_a_bad_value_is_told_in_one_line_and_nothing_is_published(bai_emit, arguments, message):
    assert bai_emit(*arguments) == (2, "", "bai-emit: " + message + "\n")


def test_a_bad_choice_is_told_in_one_line(bai_emit):
    code, out, err = bai_emit("--mode", "pigeon", "a=1")
    assert (code, out) == (2, "")
    assert re.match("bai-emit: invalid value for .--mode.: .*pigeon.*stdout.*fifo.*\n$", err)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--fast", "a=1"], "--fast"),
        (["a=1", "--mode"], "--mode"),
        (
            ["--mode", "stdout", "--fifo", "/x", "a=1"],
            "--fifo means --mode fifo: leave one of them out",
        ),
    ],
)
def test_a_bad_usage_is_told_with_the_usage(bai_emit, arguments, message):
    code, out, err = bai_emit(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(USAGE + "Try 'bai-emit --help' for help.\n\nError: ")
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, is_metric",
    [
        (["--loss=1"], True),
        (["-x=1", "a=1"], True),
        (["-v"], False),
        (["-v", "a=1"], False),
        (["--verbose", "--mode=fifo"], False),
    ],
)
def test_only_what_may_be_a_metric_is_told_to_go_after_dashes(bai_emit, arguments, is_metric):
    code, out, err = bai_emit(*arguments)
    assert (code, out) == (2, "")
    assert err.endswith(" (put -- before a metric whose name starts with -)\n") == is_metric


def test_a_bad_variable_is_told_in_one_line(bai_emit):
    message = "bai-emit: BENCHMARK_AI is 'pigeon': set it to stdout or fifo"
    for arguments in (["a=1"], ["--max-wait", "1", "a=1"]):
        code, out, err = bai_emit(*arguments, env={"BENCHMARK_AI": "pigeon"})
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(message)


def test_an_option_overrides_its_variable(bai_emit):
    assert bai_emit("--mode", "stdout", "a=0.5", env={"BENCHMARK_AI": "x"}) == (0, LINE, "")


def test_bad_records_are_rejected_with_their_line_and_the_others_are_published(bai_emit):
    stdin = b'{"a": 0.5}\nb=\n{"c": NaN}\n{"d": "1"}\n{}\n{"e": 1\nf=2\nx\n'
    code, out, err = bai_emit(stdin=stdin)
    assert (code, out) == (2, LINE + '{"f": 2}\n')
    lines = err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["bai-emit", " line %d" % line] for line in (2, 3, 4, 5, 6, 8)
    ]
    assert "'b=' has no value" in lines[0]
    assert "'c' is nan: JSON (RFC 8259) has no NaN" in lines[1]
    assert "'d' is '1', of type" in lines[2]


def test_help_shows_the_examples_the_variables_and_the_exit_codes(bai_emit):
    code, out, err = bai_emit("--help")
    assert (code, err) == (0, "")
    assert bai_emit("-h") == (0, out, "")
    assert '  $ bai-emit alexnet.latency=0.42\n    {"alexnet.latency": 0.42}\n' in out
    flat = " ".join(out.split())
    for option, variable in (
        ("--mode [stdout|fifo]", "BENCHMARK_AI"),
        ("--fifo PATH", "BENCHMARK_AI_FIFO_FILEPATH"),
        ("--max-wait SECONDS", "BENCHMARK_AI_FIFO_MAX_WAIT_TIME"),
        ("--wait-step SECONDS", "BENCHMARK_AI_FIFO_WAIT_TIME_STEP"),
    ):
        assert option in flat and "[env var: %s]" % variable in flat
    for code in (0, 1, 2, 130):
        assert "\n    %-4d " % code in out


def test_version_shows_the_version(bai_emit):
    assert bai_emit("--version") == (0, "bai-emit %s\n" % benchmarkai.__version__, "")


def test_arguments_are_published_to_the_pipe(bai_emit, fifo):
    assert bai_emit("a=0.5", env=fifo.env()) == (0, "", "")
    assert fifo.read() == LINE


def test_the_fifo_option_implies_fifo_mode(bai_emit, fifo):
    assert bai_emit("--fifo", fifo.path, "a=0.5") == (0, "", "")
    assert bai_emit("--fifo", fifo.path, stdin=b"a=0.5\nb=1\n") == (0, "", "")
    assert fifo.read() == LINE * 2 + '{"b": 1}\n'


def test_write_permission_for_the_pipe_is_enough(fifo):
    os.chmod(fifo.path, 0o222)
    if os.getuid() == 0:
        # Root may read any pipe, so become another user, in a directory that others can enter.
        directory = tempfile.mkdtemp()
        os.chmod(directory, 0o755)
        path = os.path.join(directory, "fifo")
        os.rename(fifo.path, path)
        code = (
            "import os, sys; from benchmarkai import fifo\n"
            "from benchmarkai.command import main, options; os.setuid(65534)\n"
            "sys.argv[1:] = ['--fifo', %r, 'a=0.5']; sys.exit(main.main())" % str(path)
        )
        try:
            result = run_python(code, env=NOT_MEASURED)
        finally:
            shutil.rmtree(directory)
    else:
        result = run_bai_emit("--fifo", fifo.path, "a=0.5")
    assert result == (0, "", "")
    assert fifo.read() == LINE


def test_a_failed_delivery_is_exit_code_1(bai_emit, tmpdir):
    path = str(tmpdir.join("none"))
    code, out, err = bai_emit("--fifo", path, "--max-wait", "0", "a=1")
    assert (code, out) == (1, "")
    message = "bai-emit: there is no pipe at %s( after 0\\.\\d+ s)?: start the daemon .*\n"
    assert re.match(message % re.escape(repr(path)) + "$", err)


def test_a_failed_delivery_names_the_first_line_that_was_not_published(bai_emit, tmpdir):
    arguments = ("--fifo", str(tmpdir.join("none")), "--max-wait", "0")
    code, out, err = bai_emit(*arguments, stdin=b"\n\na=1\nb=1\n")
    assert (code, out) == (1, "")
    assert err.startswith("bai-emit: line 3: there is no pipe at ")
    assert err.endswith(": nothing from this line on was published\n")


def check_plain_calls(command, cwd, env=None):
    for arguments, stdin in ((["a=0.5"], None), ([], LINE.encode()), (["-"], LINE.encode())):
        assert run(command + arguments, stdin=stdin, cwd=cwd, env=env) == (0, LINE, "")


def test_the_module_and_the_script_of_the_checkout_work_too():
    check_plain_calls([sys.executable, "-m", "benchmarkai"], "/")
    check_plain_calls([sys.executable, os.path.join(ROOT, "bin", "bai-emit")], "/")


def test_a_copy_of_the_checkout_works_without_click(tmpdir):
    for name in ("benchmarkai", "bin"):
        shutil.copytree(os.path.join(ROOT, name), str(tmpdir.join(name)))
    source = tmpdir.join("benchmarkai", "command", "main.py")
    source.write(source.read().replace("bai-emit: %s", "the copy: %s"))
    tmpdir.join("link").mksymlinkto(tmpdir.join("bin", "bai-emit"))
    tmpdir.join("without", "click.py").ensure().write("raise ImportError('hidden')")
    env = {"PYTHONPATH": str(tmpdir.join("without"))}
    command = [sys.executable, str(tmpdir.join("link"))]
    check_plain_calls(command, "/", env)
    if sys.version_info[0] > 2:  # isolated: neither bin/ nor what is installed is in sys.path
        check_plain_calls([sys.executable, "-I", "-S", str(tmpdir.join("link"))], "/")
    install = "options and completion need click: pip install click, or apt install python3-click"
    for arguments, message in (
        (["a"], "'a' has no '=': write NAME=VALUE, such as loss=0.42"),
        (["--mode", "stdout", "a=1", "--", "--help"], install),
    ):
        assert run(command + arguments, cwd="/", env=env) == (2, "", "the copy: %s\n" % message)
    completing = dict(env, _BAI_EMIT_COMPLETE="bash_source")
    assert run(command + ["-h"], cwd="/", env=completing) == (2, "", "the copy: %s\n" % install)
    version = "bai-emit %s\n" % benchmarkai.__version__
    assert run(command + ["--version"], cwd="/", env=env) == (0, version, "")
    code, out, err = run(command + ["--help"], cwd="/", env=env)
    assert (code, err) == (0, "")
    assert run(command + ["-h", "--mode", "fifo"], cwd="/", env=env) == (0, out, "")
    assert out.startswith("Usage: bai-emit [NAME=VALUE]...\n\nPublish metrics")
    assert "\n  $ bai-emit alexnet.latency=0.42\n" in out and "\nExit codes:\n  0 " in out
    assert out.endswith(
        "\nThe options need click: pip install click, or apt install python3-click.\n"
    )


def test_a_record_is_published_as_soon_as_it_arrives():
    process = start([BAI_EMIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for record in (b"a=0.5\n", b'{"a": 0.5}\n', b'{"a":\n', b"0.5}\n"):
        process.stdin.write(record)
        process.stdin.flush()
        if not record.endswith(b":\n"):
            assert bounded(process.stdout.readline) == LINE.encode()
    assert finish(process) == (0, "", None)


def test_a_long_stream_is_published_in_order():
    data = "".join('{"a": %d}\nb=%d\n' % (n, n) for n in range(20000)).encode()
    result = run_bai_emit(stdin=data)
    expected = "".join('{"a": %d}\n{"b": %d}\n' % (n, n) for n in range(20000))
    assert result == (0, expected, "")


def test_stdin_is_not_read_if_there_are_arguments():
    script = 'while read -r line; do "$0" "$line"; done'
    result = run(["sh", "-c", script, BAI_EMIT], stdin=b"a=1\nb=2\nc=3\n")
    assert result == (0, '{"a": 1}\n{"b": 2}\n{"c": 3}\n', "")


def test_a_terminal_as_stdin_without_arguments_is_a_usage_error():
    master, slave = pty.openpty()
    for arguments in ([], ["--mode", "stdout"]):
        streams = dict(PIPES, stdin=slave)
        code, out, err = finish(start([BAI_EMIT] + arguments, **streams))
        assert (code, out) == (2, "")
        assert "nothing to publish: write NAME=VALUE" in err
    os.close(slave)
    os.close(master)


def test_a_single_dash_reads_from_the_terminal():
    master, slave = pty.openpty()
    process = start([BAI_EMIT, "-"], stdin=slave, stdout=subprocess.PIPE)
    os.close(slave)
    os.write(master, b"a=0.5\n")
    assert bounded(process.stdout.readline) == LINE.encode()
    os.write(master, b"\x04")
    assert finish(process) == (0, "", None)
    os.close(master)


@pytest.mark.parametrize("arguments", [["a=0.5"], []])
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EPIPE])
def test_a_full_or_closed_stdout_is_exit_code_1(arguments, fault):
    if fault == errno.ENOSPC:
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stdout = os.pipe()
        os.close(reader)
    result = run_bai_emit(*arguments, stdin=b"\na=0.5\n", stdout=stdout)
    os.close(stdout)
    message = "cannot write to stdout: " + os.strerror(fault)
    if arguments:
        assert result.err == "bai-emit: %s\n" % message
    else:
        ending = "nothing from this line on was published"
        assert result.err == "bai-emit: line 2: %s: %s\n" % (message, ending)
    assert result.code == 1


@pytest.mark.parametrize(
    "redirections, arguments, code",
    [
        ("<&-", "a=0.5", 0),
        ("2>&-", "a=0.5", 0),
        ("2>/dev/full", "a=0.5", 0),
        ("<&- 2>&-", "a=0.5", 0),
        ("<&-", "", 1),
        ("2>&-", "a", 2),
        ("2>/dev/full", "a", 2),
        ("2>/dev/full", "--nope", 2),
        ("2>&-", "--nope", 2),
        (">&-", "--help", 1),
        (">/dev/full", "--help", 1),
        (">/dev/full", "--version", 1),
        ("<&- >&- 2>&-", "a=0.5", 1),
        ("<&- >&- 2>&-", "", 1),
        ("<&- >&- 2>&-", "a", 2),
    ],
)
def test_closed_and_full_standard_streams_have_the_right_exit_code(redirections, arguments, code):
    script = '"$0" %s %s' % (arguments, redirections)
    result = run(["bash", "-c", script, BAI_EMIT])
    assert result.code == code
    assert "Traceback" not in result.err and "Exception" not in result.err
    assert result.out == (LINE if code == 0 else "")


def test_running_out_of_descriptors_is_reported(fifo):
    code = (
        "import resource, sys; from benchmarkai import fifo; from benchmarkai.command import main\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "sys.argv[1:] = ['a=0.5']; sys.exit(main.main())\n"
    )
    result = run_python(code, env=fifo.env())
    message = "cannot write to the pipe %r: %s" % (fifo.path, os.strerror(errno.EMFILE))
    assert (result.code, result.out) == (1, "") and message in result.err
    assert fifo.read() == ""


def test_running_out_of_memory_is_reported():
    code = (
        "import resource, sys; from benchmarkai.command import main, stream\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20),) * 2)\n"
        "sys.argv[1:] = []; sys.exit(main.main())\n"
    )
    data = ('{"x": 1' + "".join(', "name%d": 1' % n for n in range(60000)) + "}\n").encode()
    result = run_python(code, stdin=data)
    assert result == (1, "", "bai-emit: out of memory: raise the limit of this process\n")


def test_a_partly_published_record_is_reported(fifo):
    metrics = {"name%d" % n: n for n in range(5000)}
    stdin = b"a=1\n" + json.dumps(metrics).encode() + b"\n"
    result = run_bai_emit("--fifo", fifo.path, "--max-wait", "0", stdin=stdin)
    assert result.code == 1
    assert re.search(r"line 2: .* \(\d+ of the \d+ lines of this call had been writ", result.err)
    assert result.err.endswith(": part of it was published, and nothing after it\n")


@pytest.mark.parametrize("record", [b"a=0.5\n", b'{"a": 0.5}\n', b"a=0.50\n", b"a=1 b=2\n"])
@pytest.mark.parametrize("room", [32999, 33000, 33001])
def test_a_file_that_reaches_its_limit_is_reported_with_the_right_line(tmpdir, record, room):
    limit = "import os, resource as r, sys; r.setrlimit(r.RLIMIT_FSIZE, (%d, %d)); " % (room, room)
    python = [sys.executable, "-c", limit + "os.execv(sys.argv[1], sys.argv[1:])", BAI_EMIT]
    file = tmpdir.join("out")
    with open(str(file), "wb") as stdout:
        result = run(python, stdin=b"\n\n" + 5000 * record, stdout=stdout.fileno())
    assert result.code == 1
    published = file.read()
    assert len(published) == room
    assert ("line %d: " % (3 + published.count("\n"))) in result.err
    partly = not published.endswith("\n")
    assert ("part of it was published" in result.err) == partly
    assert ("nothing from this line on" in result.err) != partly


@pytest.mark.slow  # test_fifo.py has a fast test of the same, without the command
def test_the_notice_of_waiting_is_shown_once_per_stream(tmpdir):
    fifo = FifoReader(str(tmpdir.join("fifo")))
    arguments = [BAI_EMIT, "--fifo", fifo.path, "--max-wait", "30", "--wait-step", "0.01"]
    process = start(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    for record in (b"a=1\n", b"b=1\n"):
        process.stdin.write(record)
        process.stdin.flush()
        time.sleep(1.1)  # the notice is due after a second
        fifo.open()
        wait_until(fifo.read)
        fifo.close()
    result = finish(process)
    assert result.code == 0
    assert result.err.count("waiting for up to 30 s") == 1


def test_ctrl_c_is_exit_code_130_without_a_message(fifo):
    fifo.fill()
    stream = start([BAI_EMIT], **PIPES)
    stream.stdin.write(b"a=0.5\n")
    stream.stdin.flush()
    assert bounded(stream.stdout.readline) == LINE.encode()
    stream.send_signal(signal.SIGINT)
    wait_until(lambda: stream.poll() is not None)  # before finish() closes stdin
    assert finish(stream) == (130, "", "")
    waiting = start([BAI_EMIT, "a=1"], fifo.env(), stderr=subprocess.PIPE)
    assert b"waiting" in bounded(waiting.stderr.readline)
    waiting.send_signal(signal.SIGINT)
    assert finish(waiting) == (130, None, "")


def test_waiting_for_more_than_a_second_is_announced_once(fifo):
    fifo.fill()
    result = run_bai_emit("a=1", env=fifo.env(max_wait=1.3))
    lines = result.err.splitlines()
    assert result.code == 1 and len(lines) == 2
    assert lines[0] == "bai-emit: nobody has read the full pipe %r: waiting for up to 1.3 s" % (
        fifo.path
    )
    assert " after 1." in lines[1]


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "en_US.ISO-8859-1"])
def test_input_is_utf8_in_any_locale(locale):
    name = "größe"
    line = json.dumps({name: 1}) + "\n"
    for arguments, stdin in (
        [[(name + "=1").encode("utf-8")], None],
        [[], (name + "=1\n").encode("utf-8")],
        [["--mode", "stdout", (name + "=1").encode("utf-8")], None],
    ):
        result = run_bai_emit(*arguments, stdin=stdin, env={"LC_ALL": locale, "PYTHONUTF8": "0"})
        assert result == (0, line, "")


@pytest.mark.parametrize("arguments", [[b"a\xff=1"], [b"--mode", b"stdout", b"a\xff=1"]])
def test_arguments_that_are_not_utf8_are_rejected(arguments):
    result = run_bai_emit(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "is not UTF-8" in result.err and "Traceback" not in result.err


def test_an_error_message_survives_any_encoding_of_stderr():
    for encoding in ("ascii", "utf-8", "latin-1"):
        result = run_bai_emit("größe".encode("utf-8"), env={"PYTHONIOENCODING": encoding})
        assert result.code == 2 and "has no '='" in (result.err or ""), encoding


def test_digits_of_other_scripts_are_rejected_and_cost_no_other_record():
    stdin = "good=1\na=\u0663,\u0664\nb=\u0663\n\u0663=1\nlast=1\n".encode("utf-8")
    result = run_bai_emit(stdin=stdin)
    assert result.code == 2
    assert result.out == '{"good": 1}\n{"\\u0663": 1}\n{"last": 1}\n'
    assert [line.split(":")[1] for line in result.err.splitlines()] == [" line 2", " line 3"]


@pytest.mark.parametrize("arguments", [["--größe", "a=1"], ["--mode", "größe", "a=1"]])
def test_options_that_are_not_ascii_are_rejected(arguments):
    result = run_bai_emit(*[argument.encode("utf-8") for argument in arguments])
    assert (result.code, result.out) == (2, "") and "Traceback" not in result.err


def test_an_empty_completion_variable_is_ignored():
    result = run_bai_emit(stdin=b"a=x\n", env={"_BAI_EMIT_COMPLETE": ""})
    assert (result.code, result.out) == (2, "") and "line 1" in result.err


def test_shell_completion_works():
    import click

    instruction = "bash_complete" if hasattr(click.Command, "shell_complete") else "complete"
    variables = {
        "_BAI_EMIT_COMPLETE": instruction,
        "COMP_WORDS": "bai-emit --m",
        "COMP_CWORD": "1",
    }
    result = run_bai_emit(env=variables)
    assert "--mode" in result.out and "--max-wait" in result.out


@pytest.mark.parametrize(
    "instruction", ["1", "nonsense", "tcsh_source", "bash_nonsense", "bash_complete"]
)
def test_an_unknown_completion_instruction_loses_no_metric_in_silence(instruction):
    import click

    result = run_bai_emit("a=0.5", env={"_BAI_EMIT_COMPLETE": instruction})
    if hasattr(click.Command, "shell_complete"):
        assert (result.code, result.out) == (2, "")
        assert "_BAI_EMIT_COMPLETE is '%s': set it to bash_source" % instruction in result.err
    else:  # click 7 runs the command
        assert result == (0, LINE, "")


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("arguments", [["a=0.5"], [], ["--mode", "stdout", "a=0.5"]])
def test_a_file_that_ends_in_the_middle_of_a_line_gets_a_new_one(tmpdir, arguments, end):
    log = tmpdir.join("log")
    for mode in ("a", "w"):
        with log.open(mode) as stdout:
            stdout.write('{"resnet.lo' + end)
            stdout.flush()
            result = run_bai_emit(*arguments, stdin=LINE.encode() * 2, stdout=stdout.fileno())
        assert (result.code, result.err) == (0, "")
        assert log.read() == '{"resnet.lo\n' + LINE * (1 if arguments else 2)
        log.remove()


PROGRAM = os.path.join(ROOT, "bin", "bai-emit")


@pytest.mark.parametrize("program", [[PROGRAM], ["-m", "benchmarkai"]])
def test_a_call_ends_without_the_end_of_the_interpreter(program):
    command = [sys.executable, "-v"]  # Python says what it does at its end
    if not PY2:  # whose virtual environments need it
        command.append("-S")  # without what the environment loads
    result = run(command + program + ["a=0.5"], cwd=ROOT)
    assert (result.code, result.out) == (0, LINE)
    assert "# clear" not in result.err
    assert "# clear" in run(command + ["-c", "pass"]).err


@pytest.mark.parametrize(
    "options, at_start, stdin, expected",
    [
        ([], "import atexit, os; atexit.register(os.write, 2, b'the end')", b"", "the end"),
        (
            [],
            "import os, threading; main = threading.current_thread()\n"
            "def wait(): main.join(); os.write(2, b'the end')\n"
            "threading.Thread(target=wait).start()\n",
            b"",
            "the end",
        ),
        (["-i"], "", b"import sys; sys.exit('the end')", "the end"),
        (["-m", "cProfile"], "", b"", "function calls"),
        (
            [
                "-c",
                "import runpy, sys; del sys.argv[0]\n"
                "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
                "except SystemExit: sys.stderr.write('the end')",
            ],
            "",
            b"",
            "the end",
        ),
    ],
)
def test_what_is_left_to_do_at_the_end_is_done(tmpdir, options, at_start, stdin, expected):
    tmpdir.join("sitecustomize.py").write(at_start)
    command = [sys.executable] + options + [PROGRAM, "a=0.5"]
    result = run(command, stdin=stdin, env=dict(NOT_MEASURED, PYTHONPATH=str(tmpdir)))
    assert LINE in result.out
    assert expected in result.out + result.err


@pytest.mark.parametrize("redirection", ["", ">/dev/full", ">&-", "2>&-", "2>/dev/full"])
def test_buffered_output_ends_as_with_the_end_of_the_interpreter(tmpdir, fifo, redirection):
    source = tmpdir.join("sitecustomize.py")
    env = dict(fifo.env(), PYTHONPATH=str(tmpdir), PYTHONDONTWRITEBYTECODE="1", **NOT_MEASURED)
    script = '"$0" "$1" a=0.5 ' + redirection
    results = []
    for first in ("", "import atexit\n"):
        source.write(
            first + "import sys\n"
            "for stream in (sys.stdout, sys.stderr):\n"
            "    try: stream.write('printed')\n"
            "    except (AttributeError, EnvironmentError): pass  # closed\n"
        )
        result = run(["bash", "-c", script, sys.executable, PROGRAM], env=env)
        # Python 2 says of a failed flush only in its second attempt.
        results.append(result[:2] if PY2 else result)
    assert results[0] == results[1]
    assert results[0][1] == ("" if redirection.startswith(">") else "printed")
    assert fifo.read() == LINE * 2


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(strategies.lists(strategies.binary(max_size=40), max_size=5))
def test_every_good_record_is_published_among_any_bytes(parts):
    parts = [part.replace(b"{", b"") for part in parts]
    stdin = b"".join(part + ('\n{"good": %d}\n' % n).encode() for n, part in enumerate(parts))
    result = run_bai_emit(stdin=stdin)
    assert result.code in (0, 2)
    assert (result.code == 2) == bool(result.err)
    assert "Traceback" not in result.err
    good = [line for line in result.out.splitlines() if '"good"' in line]
    assert good == ['{"good": %d}' % n for n in range(len(parts))]
