import os
import stat

import pytest

from benchmarkai.daemon.pipe import Pipe, PipeError


@pytest.fixture
def path(tmpdir):
    return str(tmpdir.join("pipe"))


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def write(path, data):
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(descriptor, data)
    return descriptor


def test_others_may_write_it_and_not_read_it(path):
    old = os.umask(0o077)
    try:
        Pipe(path, 0o622)
    finally:
        os.umask(old)
    assert mode_of(path) == 0o622


def test_what_is_looked_at_stays_until_it_is_taken(path):
    pipe = Pipe(path, 0o622)
    assert pipe.peek() == b""
    os.close(write(path, b"one\n"))
    os.close(write(path, b"two\n"))
    assert pipe.peek() == pipe.peek() == b"one\ntwo\n"
    pipe.consume(b"one\n")
    assert pipe.peek() == b"two\n"
    pipe.consume(b"two\n")
    assert pipe.peek() == b""


def test_a_pipe_of_the_user_is_used_and_closed_to_other_readers(path):
    os.mkfifo(path, 0o644)
    os.chmod(path, 0o644)
    pipe = Pipe(path, 0o622)
    assert mode_of(path) == 0o622
    pipe.end()
    assert os.path.exists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a pipe away")
def test_the_pipe_of_somebody_else_is_refused(path):
    os.mkfifo(path)
    os.chown(path, 12345, -1)
    with pytest.raises(PipeError, match="belongs to the user 12345, who could read it"):
        Pipe(path, 0o622)


def make_file(path):
    with open(path, "w") as file:
        file.write("private")


def make_link(path):
    os.mkfifo(path + ".target")
    os.symlink(path + ".target", path)


@pytest.mark.parametrize("make", [make_file, make_link, os.mkdir])
def test_anything_else_at_the_path_is_refused_and_left(path, make):
    make(path)
    before = os.lstat(path)
    with pytest.raises(PipeError, match="is not a named pipe, and was left as it is"):
        Pipe(path, 0o622)
    assert os.lstat(path) == before


def test_a_path_that_cannot_be_made_is_refused(path):
    with pytest.raises(PipeError, match="No such file or directory: look at the path"):
        Pipe(path + "/in/no/folder", 0o622)


def test_the_second_daemon_is_refused(path):
    first = Pipe(path, 0o622)
    with pytest.raises(PipeError, match="another daemon reads the pipe"):
        Pipe(path, 0o622)
    assert first.is_in_place()


@pytest.mark.parametrize("before", [b"", b'{"a": 1}\n', b"x" * 4096, b"y\n" * 30000])
def test_after_the_end_nobody_can_write_and_nothing_is_lost(path, before):
    pipe = Pipe(path, 0o622)
    writer = write(path, before)
    pipe.end()
    assert not os.path.exists(path)
    for data in (b"x", b"x" * 4096):
        with pytest.raises(BlockingIOError):
            os.write(writer, data)
    data = pipe.peek()
    assert data.startswith(before) and not data[len(before) :].strip(b"\n")
    pipe.consume(data)
    assert pipe.peek() == b""
    with pytest.raises(BlockingIOError):
        os.write(writer, b"x")
    pipe.close()
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")


def test_after_the_end_of_a_pipe_that_was_there_only_what_is_in_it_is_taken(path):
    os.mkfifo(path)
    pipe = Pipe(path, 0o622)
    writer = write(path, b"one\n")
    pipe.end()
    os.write(writer, b"two\n")
    assert pipe.peek() == b"one\n"
    pipe.consume(b"one\n")
    assert pipe.peek() == b""
    pipe.close()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"two\n"


def test_a_pipe_made_anew_by_somebody_else_is_not_removed(path):
    pipe = Pipe(path, 0o622)
    os.unlink(path)
    assert not pipe.is_in_place()
    os.mkfifo(path)
    assert not pipe.is_in_place()
    pipe.end()
    assert os.path.exists(path)


def test_without_tee_nothing_is_lost_either(path, monkeypatch):
    pipe = Pipe(path, 0o622)
    pipe._tee = None
    writer = write(path, b"one\n")
    assert pipe.peek() == b"one\n"
    os.write(writer, b"two\n")
    assert pipe.peek() == b"one\n"
    pipe.consume(b"one\n")
    pipe.end()
    assert pipe.peek() == b"two\n"
