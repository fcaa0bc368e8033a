"""The daemon's end of the pipe."""

import contextlib
import errno
import fcntl
import os
import resource
import select
import stat
import sys

import pytest

from benchmarkai.daemon import pipe as pipe_module
from benchmarkai.daemon.pipe import Pipe, PipeError
from tests.daemon.crash import run_in_child, small_disk
from tests.daemon.harness import open_descriptors

MODE = 0o622

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs splice(2)")

SPLICED = [pytest.param(True, marks=on_linux), False]


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


class File:
    """An empty file."""

    def __init__(self, path):
        self._file = open(path, "w+b", 0)

    def fileno(self):
        return self._file.fileno()

    def content(self):
        return os.pread(self.fileno(), 1 << 24, 0)

    def close(self):
        self._file.close()


@pytest.fixture
def file(tmp_path):
    with contextlib.closing(File(tmp_path / "file")) as file:
        yield file


def without_splice(pipe, spliced):
    if not spliced:
        pipe._splice = None
    return pipe


def fill(writer):
    """Write different bytes until the pipe is full, and return them."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            page = (b"%d " % len(data)).rjust(select.PIPE_BUF, b".")
            os.write(writer, page)
            data += page
    return data


def move_all(pipe, file, size=0):
    """Move all data to the end of a file of this size, and return the content of the file."""
    moved = pipe.move(file.fileno(), size)
    while moved:
        size += moved
        moved = pipe.move(file.fileno(), size)
    return file.content()[:size]


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


# Moving the data


def test_data_moves_from_the_pipe_into_the_file(open_pipe, open_writer, file):
    pipe = open_pipe()
    assert pipe.move(file.fileno(), 0) == 0
    open_writer(b"one\n")
    open_writer(b"two\n")
    assert file.content() == b""
    assert pipe.move(file.fileno(), 0) == 8
    open_writer(b"three\n")
    assert pipe.move(file.fileno(), 8) == 6
    assert pipe.move(file.fileno(), 14) == 0
    assert file.content() == b"one\ntwo\nthree\n"


def test_data_is_written_where_the_caller_says(open_pipe, open_writer, file):
    os.write(file.fileno(), b"0123456789")
    pipe = open_pipe()
    open_writer(b"abc")
    assert pipe.move(file.fileno(), 4) == 3
    assert file.content() == b"0123abc789"


def test_a_full_pipe_moves_completely(open_pipe, open_writer, file):
    pipe = open_pipe()
    data = fill(open_writer())
    assert len(data) == 1 << 20
    assert move_all(pipe, file) == data


def test_data_survives_a_daemon_that_does_not_move_it(path, open_writer, file):
    make_fifo(path)
    holder = os.open(path, os.O_RDWR)
    with Pipe(path, MODE):
        open_writer(b"one\n")
    with Pipe(path, MODE) as pipe:
        assert move_all(pipe, file) == b"one\n"
    os.close(holder)


@on_linux
def test_the_data_does_not_pass_through_the_process(open_pipe, open_writer, file, monkeypatch):
    def fail(*arguments):
        pytest.fail("a kill at this point would lose data")

    pipe = open_pipe()
    open_writer(b"one\n")
    with monkeypatch.context() as patches:
        patches.setattr(os, "read", fail)
        patches.setattr(os, "pwrite", fail)
        assert pipe.move(file.fileno(), 0) == 4
    assert file.content() == b"one\n"


@pytest.mark.parametrize("spliced", SPLICED)
def test_data_that_the_file_has_no_room_for_is_not_lost(open_pipe, open_writer, file, spliced):
    pipe = without_splice(open_pipe(), spliced)
    data = fill(open_writer())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100000, limits[1]))
    try:
        moved = 0
        with pytest.raises(OSError) as caught:
            while True:
                size = pipe.move(file.fileno(), moved)
                assert size
                moved += size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert moved == 100000
    assert move_all(pipe, file, moved) == data


@on_linux
@pytest.mark.parametrize("spliced", SPLICED)
def test_data_that_the_disk_has_no_room_for_is_not_lost(
    open_pipe, open_writer, file, tmp_path, spliced
):
    pipe = without_splice(open_pipe(), spliced)
    data = fill(open_writer())
    with small_disk(str(tmp_path / "disk"), 300000) as folder:
        with open(os.path.join(folder, "file"), "w+b", 0) as small:
            moved = 0
            with pytest.raises(OSError) as caught:
                while True:
                    size = pipe.move(small.fileno(), moved)
                    assert size
                    moved += size
            assert caught.value.errno == errno.ENOSPC
            assert 0 < moved < len(data)
            start = os.pread(small.fileno(), moved, 0)
    assert start + move_all(pipe, file) == data


def test_a_file_into_which_the_kernel_cannot_move_data_is_written(path, open_pipe, open_writer):
    pipe = open_pipe()
    open_writer(b"one\n")
    with open(path + ".appended", "w+b", 0) as target:
        flags = fcntl.fcntl(target, fcntl.F_GETFL)
        fcntl.fcntl(target, fcntl.F_SETFL, flags | os.O_APPEND)  # splice(2): EINVAL
        assert pipe.move(target.fileno(), 0) == 4
        open_writer(b"two\n")
        assert pipe.move(target.fileno(), 4) == 4
        assert os.pread(target.fileno(), 100, 0) == b"one\ntwo\n"


@on_linux
def test_other_errors_of_the_kernel_are_errors(open_pipe, open_writer, path):
    pipe = open_pipe()
    open_writer(b"one\n")
    descriptor = os.open(path + ".file", os.O_CREAT | os.O_RDONLY)
    with pytest.raises(OSError) as caught:
        pipe.move(descriptor, 0)
    os.close(descriptor)
    assert caught.value.errno == errno.EBADF


def test_without_splice_nothing_is_lost_at_a_partial_write(
    open_pipe, open_writer, file, monkeypatch
):
    pipe = without_splice(open_pipe(), False)
    writer = open_writer(b"one\ntwo\n")
    pwrite = os.pwrite
    with monkeypatch.context() as patches:
        outcomes = iter([5, OSError(errno.ENOSPC, "no space"), OSError(errno.ENOSPC, "no space")])

        def write_a_part(descriptor, data, offset):
            outcome = next(outcomes)
            if isinstance(outcome, OSError):
                raise outcome
            return pwrite(descriptor, data[:outcome], offset)

        patches.setattr(os, "pwrite", write_a_part)
        assert pipe.move(file.fileno(), 0) == 5
        os.write(writer, b"three\n")
        with pytest.raises(OSError):
            pipe.move(file.fileno(), 5)
    assert move_all(pipe, file, 5) == b"one\ntwo\nthree\n"


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


def give_away(path):
    make_fifo(path)
    os.chown(path, 12345, -1)


@pytest.mark.parametrize(
    "make", [make_file, make_link, os.mkdir, pytest.param(give_away, marks=as_root)]
)
def test_a_failed_open_leaves_no_descriptor(path, make):
    make(path)
    before = open_descriptors()
    for _ in range(50):
        with pytest.raises(PipeError):
            Pipe(path, MODE)
    assert open_descriptors() == before


def test_a_file_that_takes_the_place_of_the_pipe_before_it_is_opened_is_rejected(path, monkeypatch):
    make_file(path)
    make_fifo(path + ".before")
    before = os.lstat(path + ".before")
    with monkeypatch.context() as patches:
        patches.setattr(os, "lstat", lambda path: before)
        with pytest.raises(PipeError, match="is not a named pipe, and was left as it is"):
            Pipe(path, MODE)
    assert os.path.isfile(path)


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


# The end


@pytest.mark.parametrize("spliced", SPLICED)
@pytest.mark.parametrize("data", [b"", b'{"a": 1}\n', b'{"a', b"x" * 4096, b"y\n" * 30000])
def test_after_the_end_nobody_can_write_and_the_data_is_still_there(
    path, open_pipe, open_writer, file, data, spliced
):
    pipe = without_splice(open_pipe(), spliced)
    assert pipe.created
    writer = open_writer(data)
    assert pipe.end() is True
    assert os.path.exists(path)
    for more in (b"x", b"x" * 4096):
        with pytest.raises(BlockingIOError):
            os.write(writer, more)
    assert move_all(pipe, file).rstrip(b"\n") == data.rstrip(b"\n")
    with pytest.raises(BlockingIOError):
        os.write(writer, b"x")
    pipe.close()
    assert not os.path.exists(path)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")


def test_a_full_pipe_is_complete_at_its_end(open_pipe, open_writer, file):
    pipe = open_pipe()
    data = fill(open_writer())
    pipe.end()
    assert move_all(pipe, file).rstrip(b"\n") == data


def test_a_pipe_of_many_small_writes_is_complete_at_its_end(open_pipe, open_writer, file):
    pipe = open_pipe()
    for number in range(100):
        open_writer(b"%d\n" % number)
    pipe.end()
    assert move_all(pipe, file).split() == [b"%d" % number for number in range(100)]


def test_the_next_daemon_does_not_find_the_last_data_again(path, open_pipe, open_writer, file):
    pipe = open_pipe()
    writer = open_writer(b"one\n")
    pipe.end()
    move_all(pipe, file)
    # It is killed before it removes the pipe, which the writer keeps.
    left = os.read(pipe.fileno(), 1 << 20)
    assert left and left.strip(b"\n") == b""
    os.write(writer, b"two\n")


def test_a_writer_that_always_finds_room_does_not_hinder_the_end(
    open_pipe, open_writer, file, monkeypatch
):
    pipe = open_pipe()
    writer = open_writer(b"0\n")
    move, written = pipe._move, [0]

    def move_and_be_late(*arguments):
        moved = move(*arguments)
        with contextlib.suppress(BlockingIOError):
            os.write(writer, b"%d\n" % (written[-1] + 1))
            written.append(written[-1] + 1)
        return moved

    monkeypatch.setattr(pipe, "_move", move_and_be_late)
    pipe.end()
    assert list(map(int, move_all(pipe, file).split())) == written
    assert len(written) == pipe_module._MAX_LAST_MOVES + 1


def test_data_read_but_not_written_comes_first_at_the_end(open_pipe, open_writer, file):
    pipe = without_splice(open_pipe(), False)
    writer = open_writer(b"one\n")
    with open("/dev/null", "rb") as read_only, pytest.raises(OSError):
        pipe.move(read_only.fileno(), 0)
    os.write(writer, b"two\n")
    pipe.end()
    assert move_all(pipe, file).split() == [b"one", b"two"]


def test_a_pipe_whose_capacity_cannot_be_set_works_with_the_usual_one(
    open_pipe, open_writer, file, monkeypatch
):
    monkeypatch.setattr(pipe_module, "_F_SETPIPE_SZ", 99999)  # EINVAL
    pipe = open_pipe()
    writer = open_writer()
    data = fill(writer)
    assert len(data) == 1 << 16
    pipe.end()
    with pytest.raises(BlockingIOError):
        os.write(writer, b"x")
    assert move_all(pipe, file).rstrip(b"\n") == data


@as_root
@on_linux
@pytest.mark.parametrize("exists", [True, False])
def test_a_user_who_has_used_up_the_memory_for_pipes_loses_no_data(tmp_path, exists):
    # pipe(7), /proc/sys/fs/pipe-user-pages-soft: beyond it, a new pipe has two pages, or one.
    def use_pipe():
        os.chdir(tmp_path)
        os.chown(".", 12345, -1)
        os.setresuid(12345, 12345, 12345)
        if exists:
            make_fifo("pipe")
            os.open("pipe", os.O_RDWR | os.O_NONBLOCK)
        with contextlib.suppress(PermissionError):
            while True:
                fcntl.fcntl(os.pipe()[1], pipe_module._F_SETPIPE_SZ, 1 << 20)
        while fcntl.fcntl(os.pipe()[1], pipe_module._F_GETPIPE_SZ) == 1 << 16:
            pass
        with Pipe("pipe", MODE) as pipe, contextlib.closing(File("file")) as file:
            data = fill(os.open("pipe", os.O_WRONLY | os.O_NONBLOCK))
            if exists:
                os.unlink("pipe")
            assert data
            assert pipe.end()
            assert move_all(pipe, file).rstrip(b"\n") == data

    assert not run_in_child(use_pipe)


@pytest.mark.parametrize("has_tee", [True, False])
@pytest.mark.parametrize("spliced", SPLICED)
def test_a_pipe_that_existed_before_is_left_with_what_is_written_after_the_end(
    path, open_pipe, open_writer, file, spliced, has_tee
):
    make_fifo(path)
    pipe = without_splice(open_pipe(), spliced)
    if not has_tee:
        pipe._tee = None
    writer = open_writer(b"one\n")
    assert pipe.end() is False
    os.write(writer, b"two\n")
    assert move_all(pipe, file) == b"one\n"
    pipe.close()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"two\n"
    os.close(reader)


def test_data_read_but_not_written_is_among_the_last_of_a_pipe_that_existed_before(
    path, open_pipe, open_writer, file
):
    make_fifo(path)
    pipe = without_splice(open_pipe(), False)
    writer = open_writer(b"one\n")
    with open("/dev/null", "rb") as read_only, pytest.raises(OSError):
        pipe.move(read_only.fileno(), 0)
    os.write(writer, b"two\n")
    pipe.end()
    os.write(writer, b"three\n")
    assert move_all(pipe, file) == b"one\ntwo\n"


def test_an_empty_pipe_that_existed_before_has_no_more_data_at_its_end(
    path, open_pipe, open_writer, file
):
    make_fifo(path)
    pipe = open_pipe()
    writer = open_writer()
    pipe.end()
    os.write(writer, b"late\n")
    assert move_all(pipe, file) == b""


@pytest.mark.parametrize("replace", [lambda path: None, os.mkfifo])
def test_a_pipe_that_existed_before_and_was_removed_ends_like_our_own(
    path, open_pipe, open_writer, file, replace
):
    make_fifo(path)
    pipe = open_pipe()
    writer = open_writer(b"one\n")
    os.unlink(path)
    replace(path)
    assert pipe.end() is True
    with pytest.raises(BlockingIOError):
        os.write(writer, b"x")
    assert move_all(pipe, file).split() == [b"one"]
    was_there = os.path.exists(path)
    pipe.close()
    assert os.path.exists(path) is was_there


def test_without_tee_the_path_is_removed_at_the_end_and_data_still_comes(
    path, open_pipe, open_writer, file
):
    pipe = without_splice(open_pipe(), False)
    pipe._tee = None
    writer = open_writer(b"one\n")
    assert pipe.end() is True
    assert not os.path.exists(path)
    os.write(writer, b"two\n")
    assert move_all(pipe, file) == b"one\ntwo\n"


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
