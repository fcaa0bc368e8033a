"""A lock file: one process at a time."""

import os
import stat

import pytest

from benchmarkai.daemon import lock as lock_module
from benchmarkai.daemon.lock import Locked, Untrusted, lock_file
from tests.daemon.harness import open_descriptors

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


def test_one_at_a_time_holds_the_lock(path):
    before = open_descriptors()
    for _ in range(2):
        with lock_file(path):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            for _ in range(3):
                with pytest.raises(Locked), lock_file(path):
                    pass
            assert os.path.exists(path)
        assert not os.path.exists(path)
    assert open_descriptors() == before


def test_a_file_that_a_killed_process_has_left_does_not_matter(path):
    with open(path, "w"):
        pass
    with lock_file(path), pytest.raises(Locked), lock_file(path):
        pass
    assert not os.path.exists(path)


def test_the_lock_is_released_after_an_error(path):
    with pytest.raises(ZeroDivisionError), lock_file(path):
        raise ZeroDivisionError
    assert not os.path.exists(path)
    with lock_file(path):
        pass


def make_link(path):
    with open(path + ".target", "w"):
        os.symlink(path + ".target", path)


def make_dangling_link(path):
    os.symlink(path + ".target", path)


def make_foreign_file(path):
    with open(path, "w"):
        os.chown(path, 12345, -1)


@pytest.mark.parametrize(
    "make",
    [
        make_link,
        make_dangling_link,
        os.mkdir,
        os.mkfifo,
        pytest.param(make_foreign_file, marks=as_root),
    ],
)
def test_anything_but_a_file_of_this_user_is_untrusted_and_left(path, make):
    make(path)
    before, descriptors = os.lstat(path), open_descriptors()
    with pytest.raises(Untrusted), lock_file(path):
        pass
    assert os.lstat(path) == before
    assert open_descriptors() == descriptors
    assert not os.path.exists(path + ".target") or make is make_link


def test_a_file_that_the_kernel_does_not_let_us_open_is_untrusted(path, monkeypatch):
    def fail(*arguments):
        raise PermissionError(13, "fs.protected_regular")

    make_dangling_link(path)
    with monkeypatch.context() as patches:
        patches.setattr(os, "open", fail)
        with pytest.raises(Untrusted), lock_file(path):
            pass
        os.unlink(path)
        with pytest.raises(PermissionError), lock_file(path):
            pass


def test_a_folder_that_is_not_there_is_an_os_error(path):
    with pytest.raises(FileNotFoundError), lock_file(path + "/in/no/folder"):
        pass


def test_a_file_that_its_holder_removes_while_we_open_it_is_not_the_lock(path, monkeypatch):
    opened = []
    first = lock_file(path)
    first.__enter__()

    def open_and_lose(path):
        descriptor = real_open(path)
        opened.append(descriptor)
        if len(opened) == 1:
            first.__exit__(None, None, None)
        return descriptor

    real_open = lock_module._open
    monkeypatch.setattr(lock_module, "_open", open_and_lose)
    with lock_file(path):
        assert os.path.exists(path)
        with pytest.raises(Locked), lock_file(path):
            pass
    assert len(opened) == 3
    assert not os.path.exists(path)


def test_the_file_of_somebody_else_in_its_place_is_not_removed(path):
    with lock_file(path):
        os.unlink(path)
        os.mkfifo(path)
    assert os.path.exists(path)
