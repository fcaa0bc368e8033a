"""The daemon's end of the pipe."""

import fcntl
import os
import stat

import pytest

from benchmarkai.daemon import pipe as pipe_module
from benchmarkai.daemon.pipe import Pipe, PipeError
from tests.daemon.harness import open_descriptors

MODE = 0o622

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "pipe")


@pytest.fixture
def open_pipe(path):
    """A function that opens a pipe at the path; all are closed in the end."""
    pipes = []

    def call():
        pipes.append(Pipe(path, MODE))
        return pipes[-1]

    yield call
    for pipe in pipes:
        pipe.close()


@pytest.fixture
def open_writer(path):
    """A function that opens the pipe for writing, writes data, and returns the descriptor."""
    writers = []

    def call(data=b""):
        writers.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        os.write(writers[-1], data)
        return writers[-1]

    yield call
    for writer in writers:
        os.close(writer)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def make_fifo(path, mode=0o644):
    os.mkfifo(path)
    os.chmod(path, mode)


def test_the_mode_does_not_depend_on_the_umask(path, open_pipe):
    old_umask = os.umask(0o077)
    try:
        open_pipe()
    finally:
        os.umask(old_umask)
    assert mode_of(path) == MODE


def test_data_stays_in_the_pipe_until_it_is_consumed(open_pipe, open_writer):
    pipe = open_pipe()
    assert pipe.peek() == b""
    open_writer(b"one\n")
    open_writer(b"two\n")
    assert pipe.peek() == pipe.peek() == b"one\ntwo\n"
    pipe.consume(b"one\n")
    assert pipe.peek() == b"two\n"
    pipe.consume(b"two\n")
    assert pipe.peek() == b""


def test_data_survives_a_daemon_that_does_not_consume_it(path, open_writer):
    make_fifo(path)
    holder = os.open(path, os.O_RDWR)
    with Pipe(path, MODE) as pipe:
        open_writer(b"one\n")
        assert pipe.peek() == b"one\n"
    with Pipe(path, MODE) as pipe:
        assert pipe.peek() == b"one\n"
    os.close(holder)


# What is at the path before


def test_a_pipe_of_this_user_is_closed_to_other_readers(path, open_pipe):
    make_fifo(path, 0o644)
    pipe = open_pipe()
    assert not pipe.created
    assert mode_of(path) == MODE
    pipe.end()
    assert os.path.exists(path)


def test_the_mode_of_a_pipe_that_others_cannot_read_is_kept(path, open_pipe):
    make_fifo(path, 0o600)
    open_pipe()
    assert mode_of(path) == 0o600


@as_root
def test_the_pipe_of_another_user_is_rejected(path):
    make_fifo(path)
    os.chown(path, 12345, -1)
    with pytest.raises(PipeError) as caught:
        Pipe(path, MODE)
    assert str(caught.value) == (
        f"the pipe {path!r} belongs to the user 12345, who could read or replace it: remove it, "
        "or choose another path (--fifo)"
    )
    assert os.stat(path).st_uid == 12345


def make_file(path):
    with open(path, "w") as file:
        file.write("private")


def make_link(path):
    os.mkfifo(path + ".target")
    os.symlink(path + ".target", path)


@pytest.mark.parametrize("make", [make_file, make_link, os.mkdir])
def test_a_path_that_is_not_a_pipe_is_rejected_and_left(path, make):
    make(path)
    before = os.lstat(path)
    with pytest.raises(PipeError, match="is not a named pipe, and was left as it is"):
        Pipe(path, MODE)
    assert os.lstat(path) == before


def test_a_pipe_that_cannot_be_created_is_an_error(path):
    with pytest.raises(PipeError, match="No such file or directory: check the path and its perm"):
        Pipe(path + "/in/no/folder", MODE)


def test_a_second_daemon_is_rejected(path, open_pipe):
    first = open_pipe()
    with pytest.raises(PipeError) as caught:
        open_pipe()
    assert str(caught.value) == (
        f"another daemon reads the pipe {path!r}: stop it, or choose another path (--fifo)"
    )
    assert first.is_in_place()


def lock(path):
    make_fifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def give_away(path):
    make_fifo(path)
    os.chown(path, 12345, -1)


@pytest.mark.parametrize(
    "make", [lock, make_file, make_link, os.mkdir, pytest.param(give_away, marks=as_root)]
)
def test_a_failed_open_leaves_no_descriptor(path, make):
    descriptor = make(path)
    before = open_descriptors()
    for _ in range(50):
        with pytest.raises(PipeError):
            Pipe(path, MODE)
    assert open_descriptors() == before
    if descriptor is not None:
        os.close(descriptor)


def test_a_pipe_that_cannot_be_opened_is_not_left_behind(path, monkeypatch):
    def fail(*arguments):
        raise PermissionError(13, "Permission denied")

    before = open_descriptors()
    with monkeypatch.context() as patches:
        patches.setattr(os, "open", fail)
        with pytest.raises(PipeError, match="Permission denied"):
            Pipe(path, MODE)
    assert not os.path.exists(path)
    assert open_descriptors() == before


def test_a_new_pipe_that_another_daemon_has_locked_first_is_left_to_it(path, monkeypatch):
    create, descriptors = pipe_module._create, []

    def create_and_lose(path, mode):
        create(path, mode)
        descriptors.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        fcntl.flock(descriptors[0], fcntl.LOCK_EX)

    monkeypatch.setattr(pipe_module, "_create", create_and_lose)
    with pytest.raises(PipeError, match="another daemon reads the pipe"):
        Pipe(path, MODE)
    os.close(descriptors[0])
    assert os.path.exists(path)


# The end


@pytest.mark.parametrize("data", [b"", b'{"a": 1}\n', b"x" * 4096, b"y\n" * 30000])
def test_after_the_end_nobody_can_write_and_the_data_is_still_there(
    path, open_pipe, open_writer, data
):
    pipe = open_pipe()
    assert pipe.created
    writer = open_writer(data)
    pipe.end()
    assert not os.path.exists(path)
    for more in (b"x", b"x" * 4096):
        with pytest.raises(BlockingIOError):
            os.write(writer, more)
    found = pipe.peek()
    assert found.startswith(data) and not found[len(data) :].strip(b"\n")
    pipe.consume(found)
    assert pipe.peek() == b""
    with pytest.raises(BlockingIOError):
        os.write(writer, b"x")
    pipe.close()
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")


def test_a_pipe_that_existed_before_is_left_with_what_is_written_after_the_end(
    path, open_pipe, open_writer
):
    make_fifo(path)
    pipe = open_pipe()
    writer = open_writer(b"one\n")
    pipe.end()
    os.write(writer, b"two\n")
    assert pipe.peek() == b"one\n"
    pipe.consume(b"one\n")
    assert pipe.peek() == b""
    pipe.close()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"two\n"
    os.close(reader)


def test_the_last_data_of_a_pipe_that_existed_before_may_be_consumed_in_parts(
    path, open_pipe, open_writer
):
    make_fifo(path)
    pipe = open_pipe()
    writer = open_writer(b"one\ntwo\n")
    pipe.end()
    os.write(writer, b"three\n")
    assert pipe.peek() == b"one\ntwo\n"
    pipe.consume(b"one\n")
    assert pipe.peek() == b"two\n"
    pipe.consume(b"two\n")
    assert pipe.peek() == b""


@pytest.mark.parametrize("has_tee", [True, False])
def test_an_empty_pipe_that_existed_before_is_drained_at_its_end(
    path, open_pipe, open_writer, has_tee
):
    make_fifo(path)
    pipe = open_pipe()
    if not has_tee:
        pipe._tee = None
    writer = open_writer()
    pipe.end()
    os.write(writer, b"late\n")
    assert pipe.peek() == b""


def test_a_pipe_in_place_of_a_removed_one_is_not_removed(path, open_pipe):
    pipe = open_pipe()
    os.unlink(path)
    assert not pipe.is_in_place()
    os.mkfifo(path)
    assert not pipe.is_in_place()
    pipe.end()
    assert os.path.exists(path)
    pipe.close()
    assert os.path.exists(path)


@pytest.mark.parametrize("end", [True, False])
def test_leaving_the_context_removes_a_pipe_that_was_created(path, end):
    before = open_descriptors()
    with Pipe(path, MODE) as pipe:
        assert os.path.exists(path)
        if end:
            pipe.end()
    assert not os.path.exists(path)
    assert open_descriptors() == before
    pipe.close()  # a second time does no harm
    assert open_descriptors() == before


@pytest.mark.parametrize("end", [True, False])
def test_leaving_the_context_keeps_a_pipe_that_existed_before(path, end):
    make_fifo(path)
    before = open_descriptors()
    with Pipe(path, MODE) as pipe:
        if end:
            pipe.end()
    assert os.path.exists(path)
    assert open_descriptors() == before


def test_a_removed_pipe_is_opened_again_with_its_mode(path, open_pipe):
    pipe = open_pipe()
    os.unlink(path)
    with pipe.reopen() as new:
        assert new.created and new.is_in_place() and not pipe.is_in_place()
        assert mode_of(path) == MODE


# Without tee(2), peek() takes the data out of the pipe.


def test_without_tee_nothing_is_lost(open_pipe, open_writer):
    pipe = open_pipe()
    pipe._tee = None
    writer = open_writer(b"one\n")
    assert pipe.peek() == b"one\n"
    os.write(writer, b"two\n")
    assert pipe.peek() == b"one\n"
    pipe.consume(b"one\n")
    pipe.end()
    assert pipe.peek() == b"two\n"
    pipe.consume(b"two\n")
    assert pipe.peek() == b""


@pytest.mark.parametrize("peeked", [True, False])
def test_without_tee_data_written_after_the_end_is_left_too(path, open_pipe, open_writer, peeked):
    make_fifo(path)
    pipe = open_pipe()
    pipe._tee = None
    writer = open_writer(b"one\n")
    if peeked:
        assert pipe.peek() == b"one\n"
    pipe.end()
    assert pipe.peek() == b"one\n"
    pipe.consume(b"one\n")
    os.write(writer, b"two\n")
    assert pipe.peek() == b""
    pipe.close()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"two\n"
    os.close(reader)
