# -*- coding: utf-8 -*-
"""The installed command, in process and as a process: exit code, stdout and stderr."""

from __future__ import unicode_literals

import errno
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import ROOT, finish, run, start, wait_until

import benchmarkai

BAI_EMIT = os.path.join(os.path.dirname(sys.executable), "bai-emit")

USAGE = "Usage: bai-emit [OPTIONS] [NAME=VALUE]...\n"
LINE = '{"a": 0.5}\n'


@pytest.fixture
def bai_emit(script_runner, tmpdir, monkeypatch):
    """Run the command through the script runner; stdin: bytes."""

    def call(*words, **options):
        stdin = options.pop("stdin", b"")
        for name, value in options.pop("env", {}).items():
            monkeypatch.setenv(str(name), str(value))
        assert not options
        file = tmpdir.join("stdin")
        file.write_binary(stdin)
        words = [str(word) for word in words]
        with open(str(file)) as stream:
            if sys.version_info < (3, 7):  # an older script runner
                return script_runner.run(BAI_EMIT, *words, stdin=stream)
            return script_runner.run([BAI_EMIT] + words, stdin=stream)

    return call


def shown(result):
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    "words, out",
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
def test_words_are_published_as_one_line(bai_emit, words, out):
    assert shown(bai_emit(*words)) == (0, out, "")


@pytest.mark.parametrize("words", [[], ["-"], ["--mode", "stdout"], ["--mode", "stdout", "-"]])
def test_records_are_published_as_a_line_each(bai_emit, words):
    stdin = b'{"a": 0.5}\nb=1 c=2\n\n{\n"d": 3\n}\r\n'
    out = LINE + '{"b": 1, "c": 2}\n{"d": 3}\n'
    assert shown(bai_emit(*words, stdin=stdin)) == (0, out, "")


@pytest.mark.parametrize(
    "words, message",
    [
        (["loss"], "'loss' has no '=': write NAME=VALUE, such as loss=0.42"),
        (["good=1", "loss="], "'loss=' has no value: write NAME=VALUE, such as loss=0.42"),
        (["a=1", "a=2"], "'a' is given twice, the second time as 2: give each metric once"),
        (
            ["loss=0,42"],
            "the value of 'loss=0,42' has a comma: write a point, such as 0.42 (programs print it "
            "when run with LC_NUMERIC=C), and nothing between thousands",
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
        (
            ["--mode", "stdout", "--fifo", "/x", "a=1"],
            "--fifo means --mode fifo: leave one of them out",
        ),
    ],
)
def test_a_mistake_is_a_usage_error_and_nothing_is_published(bai_emit, words, message):
    expected = USAGE + "Try 'bai-emit --help' for help.\n\nError: " + message + "\n"
    assert shown(bai_emit(*words)) == (2, "", expected)


def test_an_unknown_option_is_a_usage_error(bai_emit):
    result = bai_emit("--fast", "a=1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(USAGE) and "--fast" in result.stderr
    assert "(put -- before a metric whose name begins with -)" in result.stderr


def test_a_variable_that_cannot_be_used_is_a_usage_error(bai_emit):
    result = bai_emit("a=1", env={"BENCHMARK_AI": "pigeon"})
    assert (result.returncode, result.stdout) == (2, "")
    assert "BENCHMARK_AI is 'pigeon': set it to stdout or fifo" in result.stderr


def test_an_option_comes_before_its_variable(bai_emit):
    assert shown(bai_emit("--mode", "stdout", "a=0.5", env={"BENCHMARK_AI": "x"})) == (0, LINE, "")


def test_bad_records_are_refused_by_their_line_and_the_rest_is_published(bai_emit):
    stdin = b'{"a": 0.5}\nb=\n{"c": NaN}\n{"d": "1"}\n{}\n{"e": 1\nf=2\nx\n'
    code, out, err = shown(bai_emit(stdin=stdin))
    assert (code, out) == (2, LINE + '{"f": 2}\n')
    lines = err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["bai-emit", " line %d" % line] for line in (2, 3, 4, 5, 6, 8)
    ]
    assert "'b=' has no value" in lines[0]
    assert "'c' is nan: JSON (RFC 8259) has no NaN" in lines[1]
    assert "'d' is '1', of type" in lines[2]


def test_help_shows_the_examples_the_variables_and_the_exit_codes(bai_emit):
    code, out, err = shown(bai_emit("--help"))
    assert (code, err) == (0, "")
    assert shown(bai_emit("-h")) == (0, out, "")
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


def test_the_version(bai_emit):
    assert shown(bai_emit("--version")) == (0, "bai-emit %s\n" % benchmarkai.__version__, "")


def test_words_go_into_the_pipe(bai_emit, pipe):
    assert shown(bai_emit("a=0.5", env=pipe.env())) == (0, "", "")
    assert pipe.read() == LINE


def test_fifo_means_fifo_mode(bai_emit, pipe):
    assert shown(bai_emit("--fifo", pipe.path, "a=0.5")) == (0, "", "")
    assert shown(bai_emit("--fifo", pipe.path, stdin=b"a=0.5\nb=1\n")) == (0, "", "")
    assert pipe.read() == LINE * 2 + '{"b": 1}\n'


def test_a_pipe_that_can_be_written_and_not_read_is_enough(pipe):
    os.chmod(pipe.path, 0o222)
    if os.getuid() == 0:
        # Root may read everything, so become somebody else in a folder that all can enter.
        folder = tempfile.mkdtemp()
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "pipe")
        os.rename(pipe.path, path)
        code = (
            "import os, sys; from benchmarkai import cli, command, fifo; os.setuid(65534)\n"
            "sys.argv[1:] = ['--fifo', %r, 'a=0.5']; sys.exit(command.main())" % path
        )
        result = run([sys.executable, "-c", code])
        shutil.rmtree(folder)
    else:
        result = run_bai_emit("--fifo", pipe.path, "a=0.5")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert pipe.read() == LINE


def test_what_cannot_be_delivered_is_exit_code_1(bai_emit, tmpdir):
    path = str(tmpdir.join("none"))
    code, out, err = shown(bai_emit("--fifo", path, "--max-wait", "0", "a=1"))
    assert (code, out) == (1, "")
    assert err.startswith("bai-emit: there is no pipe at %r after 0 s: " % path)
    assert err.count("\n") == 1


def test_a_stream_that_cannot_be_delivered_says_from_which_line_on(bai_emit, tmpdir):
    arguments = ("--fifo", str(tmpdir.join("none")), "--max-wait", "0")
    code, out, err = shown(bai_emit(*arguments, stdin=b"\n\na=1\nb=1\n"))
    assert (code, out) == (1, "")
    assert err.startswith("bai-emit: line 3: there is no pipe at ")
    assert err.endswith(": nothing from this line on was published\n")


def run_bai_emit(*words, **options):
    return run([BAI_EMIT] + list(words), **options)


def check_plain_calls(command, cwd, env=None):
    for words, stdin in ((["a=0.5"], None), ([], LINE.encode()), (["-"], LINE.encode())):
        result = run(command + words, stdin=stdin, cwd=cwd, env=env)
        assert (result.code, result.out, result.err) == (0, LINE, "")


def test_the_module_and_the_checkout_do_the_same():
    check_plain_calls([sys.executable, "-m", "benchmarkai"], "/")
    check_plain_calls([sys.executable, os.path.join(ROOT, "bin", "bai-emit")], "/")


def test_a_copied_folder_works_without_click(tmpdir):
    for name in ("benchmarkai", "bin"):
        subprocess.check_call(["cp", "-r", os.path.join(ROOT, name), str(tmpdir)])
    source = tmpdir.join("benchmarkai", "command.py")
    source.write(source.read().replace("bai-emit: %s", "the copy: %s"))
    tmpdir.join("link").mksymlinkto(tmpdir.join("bin", "bai-emit"))
    tmpdir.join("without", "click.py").ensure().write("raise ImportError('hidden')")
    env = {"PYTHONPATH": str(tmpdir.join("without"))}
    command = [sys.executable, str(tmpdir.join("link"))]
    check_plain_calls(command, "/", env)
    for words, message in (
        (["a"], "the copy: 'a' has no '=': write NAME=VALUE, such as loss=0.42\n"),
        (["--help"], "the copy: options and help need click: install it with pip install click\n"),
    ):
        result = run(command + words, cwd="/", env=env)
        assert (result.code, result.out, result.err) == (2, "", message)


def test_a_record_is_published_before_more_input_is_waited_for():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = start([BAI_EMIT], bufsize=0, **pipes)
    for record in (b"a=0.5\n", b'{"a": 0.5}\n', b'{"a":\n', b"0.5}\n"):
        process.stdin.write(record)
        if not record.endswith(b":\n"):
            assert process.stdout.readline() == LINE.encode()
    result = finish(process)
    assert (result.code, result.out) == (0, "")


def test_a_long_stream_goes_through_in_order():
    data = "".join('{"a": %d}\nb=%d\n' % (n, n) for n in range(20000)).encode()
    result = run_bai_emit(stdin=data)
    assert result.code == 0
    expected = "".join('{"a": %d}\n{"b": %d}\n' % (n, n) for n in range(20000))
    assert result.out == expected


def test_with_words_stdin_is_not_touched():
    script = 'while read -r line; do "$0" "$line"; done'
    result = run(["sh", "-c", script, BAI_EMIT], stdin=b"a=1\nb=2\nc=3\n")
    assert (result.code, result.out) == (0, '{"a": 1}\n{"b": 2}\n{"c": 3}\n')


def test_a_terminal_at_stdin_without_words_is_a_usage_error():
    master, slave = pty.openpty()
    for words in ([], ["--mode", "stdout"]):
        result = finish(start([BAI_EMIT] + words, stdin=slave, stdout=-1, stderr=-1))
        assert (result.code, result.out) == (2, "")
        assert "nothing to publish: write NAME=VALUE" in result.err
    os.close(slave)
    os.close(master)


def test_a_single_dash_reads_the_terminal():
    master, slave = pty.openpty()
    process = start([BAI_EMIT, "-"], stdin=slave, stdout=subprocess.PIPE)
    os.close(slave)
    os.write(master, b"a=0.5\n")
    assert process.stdout.readline() == LINE.encode()
    os.write(master, b"\x04")
    assert finish(process).code == 0
    os.close(master)


@pytest.mark.parametrize("words", [["a=0.5"], []])
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EPIPE])
def test_a_stdout_that_takes_nothing_is_exit_code_1(words, fault):
    if fault == errno.ENOSPC:
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stdout = os.pipe()
        os.close(reader)
    result = run_bai_emit(*words, stdin=b"\na=0.5\n", stdout=stdout)
    os.close(stdout)
    message = "cannot write to stdout: " + os.strerror(fault)
    if words:
        assert result.err == "bai-emit: %s\n" % message
    else:
        ending = "nothing from this line on was published"
        assert result.err == "bai-emit: line 2: %s: %s\n" % (message, ending)
    assert result.code == 1


@pytest.mark.parametrize(
    "redirections, words, code",
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
def test_closed_and_full_streams(redirections, words, code):
    script = '"$0" %s %s' % (words, redirections)
    result = run(["bash", "-c", script, BAI_EMIT])
    assert result.code == code
    assert "Traceback" not in result.err and "Exception" not in result.err
    assert result.out == (LINE if code == 0 else "")


def test_without_descriptors_it_says_so(pipe):
    code = (
        "import resource, sys; from benchmarkai import command, fifo\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "sys.argv[1:] = ['a=0.5']; sys.exit(command.main())\n"
    )
    result = run([sys.executable, "-c", code], env=pipe.env())
    message = "cannot write to the pipe %r: %s" % (str(pipe.path), os.strerror(errno.EMFILE))
    assert (result.code, result.out) == (1, "") and message in result.err
    assert pipe.read() == ""


def test_without_memory_it_says_so():
    code = (
        "import resource, sys; from benchmarkai.command import main\n"
        "import benchmarkai.stream\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20),) * 2)\n"
        "sys.argv[1:] = []; sys.exit(main())\n"
    )
    data = ('{"x": 1' + "".join(', "name%d": 1' % n for n in range(60000)) + "}\n").encode()
    result = run([sys.executable, "-c", code], stdin=data)
    assert (result.code, result.out) == (1, "")
    assert result.err == "bai-emit: out of memory: raise the limit of this process\n"


def test_a_record_published_in_part_is_reported_so(pipe):
    metrics = {"name%d" % n: n for n in range(5000)}
    stdin = b"a=1\n" + json.dumps(metrics).encode() + b"\n"
    result = run_bai_emit("--fifo", pipe.path, "--max-wait", "0", stdin=stdin)
    assert result.code == 1
    assert re.search(r"line 2: .* \(\d+ of the \d+ lines of this call had been writ", result.err)
    assert result.err.endswith(": it was published in part, and nothing after it\n")


@pytest.mark.parametrize("record", [b"a=0.5\n", b'{"a": 0.5}\n', b"a=0.50\n", b"a=1 b=2\n"])
@pytest.mark.parametrize("room", [32999, 33000, 33001])
def test_where_the_room_ends_within_many_records_it_says_at_which(tmpdir, record, room):
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
    assert ("published in part" in result.err) == partly
    assert ("nothing from this line on" in result.err) != partly


def test_the_notice_comes_once_for_a_whole_stream(tmpdir):
    path = str(tmpdir.join("pipe"))
    os.mkfifo(path)
    arguments = [BAI_EMIT, "--fifo", path, "--max-wait", "30", "--wait-step", "0.01"]
    process = start(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    for record in (b"a=1\n", b"b=1\n"):
        process.stdin.write(record)
        process.stdin.flush()
        time.sleep(1.1)  # longer than what the notice waits for
        reader = os.open(path, os.O_RDONLY)
        wait_until(lambda: select.select([reader], [], [], 0)[0])
        assert os.read(reader, 100)
        os.close(reader)
    result = finish(process)
    assert result.code == 0
    assert result.err.count("waiting for up to 30 s") == 1


def test_ctrl_c_is_130_without_a_word(pipe):
    pipe.fill()
    stream = start(
        [BAI_EMIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stream.stdin.write(b"a=0.5\n")
    stream.stdin.flush()
    assert stream.stdout.readline() == LINE.encode()
    stream.send_signal(signal.SIGINT)
    wait_until(lambda: stream.poll() is not None)
    result = finish(stream)
    assert (result.code, result.out, result.err) == (130, "", "")
    waiting = start([BAI_EMIT, "a=1"], pipe.env(), stderr=subprocess.PIPE)
    assert b"waiting" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    result = finish(waiting)
    assert (result.code, result.err) == (130, "")


def test_after_a_second_of_waiting_it_says_so_once(pipe):
    pipe.fill()
    result = run_bai_emit("a=1", env=pipe.env(max_wait=1.3))
    lines = result.err.splitlines()
    assert result.code == 1 and len(lines) == 2
    assert lines[0] == "bai-emit: nobody has read the full pipe %r: waiting for up to 1.3 s" % (
        pipe.path
    )
    assert " after 1." in lines[1]


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "en_US.ISO-8859-1"])
def test_input_is_utf8_whatever_the_locale_says(locale, pipe):
    name = "größe"
    line = json.dumps({name: 1}) + "\n"
    for words, stdin in (
        [[(name + "=1").encode("utf-8")], None],
        [[], (name + "=1\n").encode("utf-8")],
        [["--mode", "stdout", (name + "=1").encode("utf-8")], None],
    ):
        result = run_bai_emit(*words, stdin=stdin, env={"LC_ALL": locale, "PYTHONUTF8": "0"})
        assert (result.code, result.out, result.err) == (0, line, "")


@pytest.mark.parametrize("words", [[b"a\xff=1"], [b"--mode", b"stdout", b"a\xff=1"]])
def test_words_that_are_not_utf8_are_refused(words):
    result = run_bai_emit(*words)
    assert (result.code, result.out) == (2, "")
    assert "is not UTF-8" in result.err and "Traceback" not in result.err


def test_an_error_message_survives_any_encoding_of_stderr():
    for encoding in ("ascii", "utf-8", "latin-1"):
        result = run_bai_emit("größe".encode("utf-8"), env={"PYTHONIOENCODING": encoding})
        assert result.code == 2 and "has no '='" in (result.err or ""), encoding


def test_digits_of_other_scripts_cost_no_good_record():
    stdin = "good=1\na=\u0663,\u0664\nb=\u0663\n\u0663=1\nlast=1\n".encode("utf-8")
    result = run_bai_emit(stdin=stdin)
    assert result.code == 2
    assert result.out == '{"good": 1}\n{"\\u0663": 1}\n{"last": 1}\n'
    assert [line.split(":")[1] for line in result.err.splitlines()] == [" line 2", " line 3"]


@pytest.mark.parametrize("words", [["--größe", "a=1"], ["--mode", "größe", "a=1"]])
def test_options_that_are_not_ascii_are_refused(words):
    result = run_bai_emit(*[word.encode("utf-8") for word in words])
    assert (result.code, result.out) == (2, "") and "Traceback" not in result.err


def test_an_empty_completion_variable_is_none():
    result = run_bai_emit(stdin=b"a=x\n", env={"_BAI_EMIT_COMPLETE": ""})
    assert (result.code, result.out) == (2, "") and "line 1" in result.err


def test_completion_reaches_click():
    import click

    instruction = "bash_complete" if hasattr(click.Command, "shell_complete") else "complete"
    variables = {
        "_BAI_EMIT_COMPLETE": instruction,
        "COMP_WORDS": "bai-emit --m",
        "COMP_CWORD": "1",
    }
    result = run_bai_emit(env=variables)
    assert "--mode" in result.out and "--max-wait" in result.out


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(strategies.lists(strategies.binary(max_size=40), max_size=5))
def test_whatever_the_bytes_on_stdin_every_good_record_is_published(parts):
    parts = [part.replace(b"{", b"") for part in parts]
    stdin = b"".join(part + ('\n{"good": %d}\n' % n).encode() for n, part in enumerate(parts))
    result = run_bai_emit(stdin=stdin)
    assert result.code in (0, 2)
    assert (result.code == 2) == bool(result.err)
    assert "Traceback" not in result.err
    good = [line for line in result.out.splitlines() if '"good"' in line]
    assert good == ['{"good": %d}' % n for n in range(len(parts))]
