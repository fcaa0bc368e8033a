"""The file of what was read from the pipe and is not in the database yet."""

import contextlib
import os
import resource
import stat

import pytest

from benchmarkai.daemon.journal import Journal
from tests.daemon.harness import write

MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "journal")


@pytest.fixture
def open_journal(path):
    """A function that opens the journal; all are closed in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda position=0: stack.enter_context(contextlib.closing(Journal(path, position)))


def receive(journal, pipe, data):
    write(pipe, data)
    assert journal.receive(pipe) == len(data)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def put(path, content):
    with open(path, "wb") as file:
        file.write(content)


@pytest.fixture
def header(path):
    """A function that returns what a journal begins with whose first byte has a position."""

    def call(position):
        Journal(f"{path}.{position}", position).close()
        return read(f"{path}.{position}")

    return call


def test_what_was_received_is_pending_until_it_is_stored(pipe, open_journal):
    journal = open_journal()
    assert (journal.position, journal.pending) == (0, b"")
    assert journal.receive(pipe) == 0
    receive(journal, pipe, b"one\n")
    receive(journal, pipe, b"two\nthr")
    assert (journal.position, journal.pending) == (0, b"one\ntwo\nthr")
    journal.advance(8)
    assert (journal.position, journal.pending) == (8, b"thr")


def test_the_next_process_finds_what_is_after_its_position(pipe, open_journal):
    journal = open_journal()
    receive(journal, pipe, b"one\n")
    receive(journal, pipe, b"two\n")
    journal.advance(4)
    for position, pending in [(0, b"one\ntwo\n"), (4, b"two\n"), (5, b"wo\n"), (8, b"")]:
        journal.close()
        journal = open_journal(position)
        assert (journal.position, journal.pending) == (position, pending)


def test_a_journal_with_pending_data_goes_on(pipe, open_journal):
    journal = open_journal(100)
    receive(journal, pipe, b"one\ntw")
    journal.close()
    journal = open_journal(104)
    receive(journal, pipe, b"o\n")
    journal.advance(4)
    receive(journal, pipe, b"three\n")
    journal.close()
    assert open_journal(108).pending == b"three\n"


def test_opening_does_not_write_pending_data_again(path, pipe, open_journal):
    journal = open_journal()
    receive(journal, pipe, b"one\ntwo\n")
    journal.close()
    first = os.stat(path)
    open_journal(4)
    assert os.path.samestat(os.stat(path), first)


@pytest.mark.parametrize("umask", [0, 0o777])
def test_only_the_owner_can_read_it(path, open_journal, umask):
    old_umask = os.umask(umask)
    try:
        open_journal()
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o177 == 0


def test_it_is_made_anew_once_a_mebibyte_of_it_is_stored(path, pipe, open_journal):
    journal = open_journal(7)
    receive(journal, pipe, b"x" * (MIB - 1) + b"\n")
    receive(journal, pipe, b"yz")
    first = os.stat(path)
    journal.advance(MIB - 1)
    assert os.path.samestat(os.stat(path), first)
    journal.advance(1)
    assert not os.path.samestat(os.stat(path), first)
    assert os.path.getsize(path) < 100
    assert (journal.position, journal.pending) == (MIB + 7, b"yz")
    receive(journal, pipe, b"!")
    journal.close()
    journal = open_journal(MIB + 8)
    assert (journal.position, journal.pending) == (MIB + 8, b"z!")


def test_it_stays_as_it_is_if_there_is_no_room_to_make_it_anew(path, pipe, open_journal):
    journal = open_journal()
    receive(journal, pipe, b"x" * MIB)
    receive(journal, pipe, b"y" * 1000)
    first = os.stat(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        journal.advance(MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.path.samestat(os.stat(path), first)
    receive(journal, pipe, b"z")
    assert journal.pending == b"y" * 1000 + b"z"
    journal.close()
    assert open_journal(MIB).pending == b"y" * 1000 + b"z"
    journal = open_journal(MIB)
    receive(journal, pipe, b"!")
    journal.advance(1)
    journal.close()
    assert open_journal(MIB + 1).pending == b"y" * 999 + b"z!"


def test_what_cannot_be_written_is_an_error_and_stays_in_the_pipe(pipe, open_journal):
    journal = open_journal()
    write(pipe, b"x" * 1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.fstat(journal._file.fileno()).st_size, limits[1]))
    try:
        with pytest.raises(OSError):
            journal.receive(pipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.pending == b""
    assert journal.receive(pipe) == 1000
    assert journal.pending == b"x" * 1000


# A file that somebody has changed or removed


def test_a_removed_journal_is_restored_with_what_is_pending(path, pipe, open_journal):
    journal = open_journal()
    receive(journal, pipe, b"one\ntwo\n")
    journal.advance(4)
    assert journal.is_in_place()
    os.unlink(path)
    assert not journal.is_in_place()
    put(path, b"of somebody else")
    assert not journal.is_in_place()
    receive(journal, pipe, b"three\n")
    journal.restore()
    assert journal.is_in_place()
    assert journal.pending == b"two\nthree\n"
    receive(journal, pipe, b"four\n")
    journal.close()
    assert open_journal(4).pending == b"two\nthree\nfour\n"


def test_restoring_leaves_no_descriptor_and_no_file_behind(path, pipe, open_journal):
    journal = open_journal()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        journal.restore()
    assert len(os.listdir("/proc/self/fd")) == before
    assert sorted(os.listdir(os.path.dirname(path))) == ["journal", "pipe"]


def test_a_failed_restore_leaves_no_descriptor_behind(path, pipe, open_journal):
    journal = open_journal()
    before = len(os.listdir("/proc/self/fd"))
    os.unlink(path)
    os.mkdir(path)
    for _ in range(5):
        with pytest.raises(OSError):
            journal.restore()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_journal_that_was_cut_off_has_nothing_pending(path, header, open_journal):
    put(path, header(100) + b"x" * 50)
    journal = open_journal(200)
    assert (journal.position, journal.pending) == (200, b"")
    journal.close()
    assert read(path) == header(200)


@pytest.mark.parametrize("position, pending", [(0, b"one\n"), (99, b"one\n"), (102, b"e\n")])
def test_all_of_a_journal_counts_that_is_newer_than_the_database(
    path, header, open_journal, position, pending
):
    put(path, header(100) + b"one\n")
    journal = open_journal(position)
    assert (journal.position, journal.pending) == (max(position, 100), pending)


def test_one_without_pending_data_starts_at_the_position_of_the_database(
    path, header, open_journal
):
    for content, position in [(b"", 50), (header(100), 100), (header(0) + b"x" * 30, 30)]:
        put(path, content)
        journal = open_journal(position)
        assert (journal.position, journal.pending) == (position, b"")
        journal.close()
        assert read(path) == header(position)


def test_an_empty_file_is_no_loss(path, open_journal, messages):
    put(path, b"")
    open_journal(50)
    assert os.listdir(os.path.dirname(path)) == ["journal"]
    assert messages() == []


def test_a_link_is_not_followed(path):
    put(path + ".target", b"private")
    os.symlink(path + ".target", path)
    with pytest.raises(OSError):
        Journal(path, 0)
    assert read(path + ".target") == b"private"


def test_it_is_removed_unless_there_is_pending_data(path, pipe, open_journal):
    journal = open_journal()
    receive(journal, pipe, b"one\n")
    journal.remove()
    assert os.path.exists(path)
    journal.advance(4)
    journal.remove()
    assert not os.path.exists(path)
    put(path, b"of somebody else")
    journal.remove()
    assert read(path) == b"of somebody else"


@pytest.mark.parametrize(
    "content",
    [
        b"of somebody else",
        b"of somebody else, and so long that a header would fit\n",
        b"0" * 100,
        b"\0" * 100,
        b"1" * 20 + b"\n" + b"beyond 64 bits\n",
        b"-" + b"1" * 17 + b"\n",
        b"12\n",
    ],
)
def test_a_file_that_is_no_journal_is_moved_aside(path, pipe, open_journal, messages, content):
    put(path, content)
    journal = open_journal(5)
    assert (journal.position, journal.pending) == (5, b"")
    receive(journal, pipe, b"one\n")
    journal.close()
    assert open_journal(5).pending == b"one\n"
    assert read(path + ".broken") == content
    assert messages() == [f"{path!r} is not a journal: moved it to {path + '.broken'!r}"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/null", path)])
def test_what_somebody_has_put_in_the_place_of_the_next_journal_is_not_written(
    path, pipe, open_journal, make
):
    journal = open_journal()
    receive(journal, pipe, b"one\n")
    make(path + ".new")
    journal.restore()
    assert stat.S_ISREG(os.stat(path).st_mode)
    journal.close()
    assert open_journal().pending == b"one\n"
