"""What FileSessionStore promises beyond the contract that all stores share."""

import errno
import fcntl
import os
import random
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_session._colour import Colour, drive
from server_session._urls import open_store
from server_session.exceptions import ConfigurationError, RecordError, StoreError
from server_session.stores import _files
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime
from server_session.stores.file import FileSessionStore
from server_session.testing import StoreContract
from tests.patience import PATIENCE
from tests.stores.listings import Listings

HOUR = Lifetime(3600.0)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class TestFileStoreContract(Listings, StoreContract):
    clock_steps_back = True

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path):
        self.directory = tmp_path
        self.clock = Clock()

    def make_store(self):
        # The contract's races put many threads to one session on a machine that may be busy.
        return FileSessionStore(self.directory, clock=self.clock)

    def second_client(self, store):
        return self.make_store()

    def advance(self, seconds):
        self.clock.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "sessions"


@pytest.fixture
def store(directory, clock):
    return FileSessionStore(directory, clock=clock)


def put(store, fields=None, lifetime=HOUR):
    key = store.id()
    assert drive(store.set(key, fields or {"a": b"1"}, lifetime)) is APPLIED
    return key


def look(store, key):
    return drive(store.get(key, {}, touch=False))


def session_files(directory):
    return sorted(directory.glob("*/*.session"))


def unfinished_files(directory):
    return sorted(directory.glob("*/*.new"))


def sweep_round(store):
    """Make as many calls as meet all files while there are few."""
    absent = store.id()
    for _ in range(8000):
        assert look(store, absent) is MISSING


def before_next_lock(monkeypatch, act):
    """Let something happen just before the next lock is taken."""
    real = fcntl.flock

    def lock(file, how):
        monkeypatch.setattr(fcntl, "flock", real)
        act()
        return real(file, how)

    monkeypatch.setattr(fcntl, "flock", lock)


def make_old(file):
    os.utime(file, (file.stat().st_mtime - 61, file.stat().st_mtime - 61))


# ------------------------------------------------------------------------------------------------- settings


def test_it_says_that_its_client_blocks_and_keeps_the_idle_time_it_was_given(directory):
    assert FileSessionStore(directory).colour is Colour.BLOCKS
    assert FileSessionStore(directory).max_age is None
    assert FileSessionStore(directory, max_age=600).max_age == 600.0
    assert FileSessionStore(str(directory), max_age=timedelta(days=2)).max_age == 172_800.0


@pytest.mark.parametrize("setting", ["max_age", "timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "60", True, timedelta(0)])
def test_a_time_that_is_no_time_is_refused_by_name(directory, setting, value):
    with pytest.raises(ConfigurationError, match=f"{setting} must be a positive number of seconds"):
        FileSessionStore(directory, **{setting: value})
    assert not directory.exists()


def test_a_directory_that_cannot_be_one_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"the session directory .* cannot be used: .*file"):
        FileSessionStore(tmp_path / "file")


@pytest.mark.parametrize("value", [None, 5, [], "a\0b", "\ud800", "a" * 100_000])
def test_what_is_no_directory_s_path_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"^the session directory .* cannot be used"):
        FileSessionStore(value)
    with pytest.raises(ConfigurationError, match=r"^the session directory .* cannot be used"):
        open_store("file:%00")


def test_a_directory_without_a_name_is_not_taken_for_the_one_that_the_process_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="directory is the path of a directory"):
        FileSessionStore("")
    assert not list(tmp_path.iterdir())


def test_a_system_without_its_locks_is_refused_with_the_way_out(directory, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="Windows lacks: use SQLSessionStore"):
        FileSessionStore(directory)


def test_folders_and_files_are_for_their_owner_alone(tmp_path):
    directory = tmp_path / "deep" / "sessions"
    before = os.umask(0)
    try:
        put(FileSessionStore(directory))
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_store_made_with_a_relative_path_stays_where_it_is_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = FileSessionStore("sessions")
    key = put(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert look(store, key) == {"a": b"1"}


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a" * 23,
        "a" * 25,
        "../../../../../../etc/pas",
        "/" * 24,
        "." * 24,
        "a" * 23 + "\0",
        "a" * 24 + "\n",
        "a" * 23 + "=",
        "a" * 23 + "é",
        "a" * 23 + "\u0661",
    ],
)
def test_what_is_no_key_is_refused_before_the_file_system_is_touched(store, directory, key, monkeypatch):
    def reached(*_arguments, **_keywords):
        pytest.fail("the file system was touched")

    before = sorted(directory.rglob("*"))
    with monkeypatch.context() as patch:
        for name in ("open", "stat", "scandir", "unlink", "replace"):
            patch.setattr(os, name, reached)
        for call in (
            store.get(key, {}),
            store.set(key, {"a": b"1"}, HOUR),
            store.merge(key, {}, [], {}),
            store.destroy(key),
        ):
            with pytest.raises(StoreError, match="24 characters of base64url"):
                drive(call)
    assert sorted(directory.rglob("*")) == before


def test_keys_that_differ_in_letter_case_alone_have_names_that_differ_without_it(store, directory):
    keys = ["abcdefghijklmnopqrstuvwx", "ABCDEFGHIJKLMNOPQRSTUVWX", "abcdefghijklmnopqrstuvwX", "-_" * 12, "__" * 12]
    for number, key in enumerate(keys):
        assert drive(store.set(key, {"a": b"%d" % number}, HOUR)) is APPLIED
    assert [look(store, key) for key in keys] == [{"a": b"%d" % number} for number in range(len(keys))]
    names = [str(path.relative_to(directory)) for path in session_files(directory)]
    assert len({name.casefold() for name in names}) == len(keys)
    assert all(name == name.lower() for name in names)


def test_sessions_that_have_gone_leave_no_file(store, directory):
    for _ in range(600):
        drive(store.destroy(put(store)))
    assert [path.name for path in directory.rglob("*") if path.is_file()] == ["store"]


def test_a_store_that_holds_nothing_makes_no_folders(store, directory):
    key = store.id()
    assert look(store, key) is MISSING
    assert drive(store.merge(key, {"a": b"1"}, [], {})) is MISSING
    assert drive(store.set(key, {"a": b"1"}, HOUR, expect={})) is MISSING
    assert drive(store.destroy(key)) is False
    assert [path.name for path in directory.iterdir()] == ["store"]


def test_a_link_in_the_place_of_a_session_file_is_not_followed(store, directory, tmp_path):
    key = put(store)
    (file,) = session_files(directory)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        look(store, key)


# --------------------------------------------------------------------------------------------------- format


@settings(max_examples=60, deadline=None)
@given(
    fields=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), st.binary(max_size=300), min_size=1
    )
)
def test_a_record_comes_out_as_it_went_in(tmp_path_factory, fields):
    directory = tmp_path_factory.getbasetemp() / "format"
    key = put(FileSessionStore(directory), fields)
    assert look(FileSessionStore(directory), key) == fields


def test_names_and_values_go_to_their_bounds(store):
    fields = {"n" * 255: b"\xff" * 2**20, "\0": b"", "é" * 127: b"\0"}
    key = put(store, fields)
    assert look(store, key) == fields


def test_every_single_damaged_byte_is_found(store, directory):
    key = put(store, {"name": b"value", "other": b""}, Lifetime(60.0, 600.0))
    (file,) = session_files(directory)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        with pytest.raises(RecordError, match=f"{file.parent.name}/{file.name[:7]}"):
            look(store, key)
    file.write_bytes(whole)
    assert look(store, key) == {"name": b"value", "other": b""}


def test_every_length_below_the_whole_is_found(store, directory):
    key = put(store, {"name": b"value"})
    (file,) = session_files(directory)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(RecordError):
            look(store, key)
    for more in (b"\0", whole):
        # As it is left by who was killed while he wrote.
        file.write_bytes(whole + more)
        assert look(store, key) == {"name": b"value"}


def test_every_damaged_byte_that_counts_is_found_after_writes_in_place(store, directory):
    key = put(store, {"name": b"value", "other": b"x" * 40})
    (file,) = session_files(directory)
    for value in (b"1" * 80, b"2", b"3" * 20):
        assert drive(store.merge(key, {"name": value}, [], {})) is APPLIED
        fields = look(store, key)
        whole = file.read_bytes()
        found = 0
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
            try:
                assert look(store, key) == fields
            except RecordError:
                found += 1
        assert found > 42 + len(value)
        file.write_bytes(whole)


def test_a_damaged_record_fails_each_call_and_only_destroy_clears_it(store, directory):
    key = put(store)
    (file,) = session_files(directory)
    file.write_bytes(b"")
    for call in (
        store.get(key, {}),
        store.set(key, {"a": b"2"}, HOUR),
        store.set(key, {"a": b"2"}, HOUR, expect={}),
        store.merge(key, {"a": b"2"}, [], {}),
    ):
        with pytest.raises(RecordError):
            drive(call)
    assert drive(store.list_records()).unreadable == [key]
    sweep_round(store)
    assert file.read_bytes() == b""
    assert drive(store.destroy(key)) is True
    assert look(store, key) is MISSING


def test_the_file_of_one_session_under_the_name_of_another_is_found(store, directory):
    one, other = put(store), put(store)
    files = session_files(directory)
    files[0].write_bytes(files[1].read_bytes())
    refused = 0
    for key in (one, other):
        try:
            assert look(store, key) == {"a": b"1"}
        except RecordError:
            refused += 1
    assert refused == 1


def test_a_copy_of_a_session_file_under_a_name_of_its_own_disturbs_no_call(store, directory):
    key = store.id()
    drive(store.set(key, {"a": b"1"}, HOUR))
    (file,) = directory.glob("*/*.session")
    copies = [file.with_name(f"{file.stem} (1).session"), file.with_name("notes.new")]
    for copy in copies:
        copy.write_bytes(file.read_bytes())
        os.utime(copy, (0, 0))
    for _ in range(20):
        assert drive(store.set(store.id(), {"a": b"1"}, HOUR)) is APPLIED
    assert drive(store.delete_expired()) == 0
    assert len(drive(store.list_records()).records) == 21
    assert all(copy.exists() for copy in copies)


def test_what_is_whole_but_no_record_is_found(store, directory):
    key = put(store, {"a": b"1"})
    (file,) = session_files(directory)
    whole = file.read_bytes()
    head, content = whole[: _files._HEAD_BYTES], whole[_files._HEAD_BYTES :]
    assert head + content == _files._head(str(file), content, len(head)) + content
    for other in (content[:-1], content + b"1", b"", b"\xc0", content[:-3] + b"\xff" + content[-2:]):
        file.write_bytes(_files._head(str(file), other, len(head)) + other)
        with pytest.raises(RecordError, match="holds what this store does not write"):
            look(store, key)


# ----------------------------------------------------------------------------------------- touch and expiry


def test_a_touch_worth_less_than_a_tenth_of_the_idle_time_writes_nothing(store, directory, clock):
    key = put(store, lifetime=Lifetime(100.0))
    (file,) = session_files(directory)
    whole = file.read_bytes()
    clock.now += 9.75
    assert drive(store.get(key, {})) == {"a": b"1"}
    assert file.read_bytes() == whole
    clock.now += 0.25
    assert drive(store.get(key, {})) == {"a": b"1"}
    assert file.read_bytes() != whole


def test_a_read_that_needs_no_touch_waits_for_no_lock(directory, clock):
    store = FileSessionStore(directory, clock=clock, timeout=0.01)
    key = put(store)
    lock = os.open(session_files(directory)[0], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert drive(store.get(key, {})) == {"a": b"1"}
        assert drive(store.get(key, {"a": b"2"})) is CONFLICT
    finally:
        os.close(lock)


def test_a_read_that_must_touch_goes_by_what_it_finds_under_the_lock(store, directory, clock, monkeypatch):
    key = put(store, {"digest": b"1"}, Lifetime(100.0))
    other = FileSessionStore(directory, clock=clock)
    clock.now += 50
    store._sweep = lambda: None
    before_next_lock(monkeypatch, lambda: drive(other.merge(key, {"digest": b"2"}, [], {}, Lifetime(20.0))))
    assert drive(store.get(key, {"digest": b"1"})) is CONFLICT
    clock.now += 20
    assert look(store, key) is MISSING


def test_a_read_that_must_touch_goes_by_the_time_when_it_has_the_lock(store, clock, monkeypatch):
    key = put(store, lifetime=Lifetime(100.0))
    clock.now += 50
    store._sweep = lambda: None

    def wait():
        clock.now += 50

    before_next_lock(monkeypatch, wait)
    assert drive(store.get(key, {})) is MISSING


def test_a_clock_that_is_set_back_moves_no_expiry_back(store, clock):
    key = put(store, lifetime=Lifetime(100.0))
    clock.now -= 1000
    assert drive(store.get(key, {})) == {"a": b"1"}
    assert drive(store.merge(key, {"b": b"2"}, [], {})) is APPLIED
    clock.now += 1099
    assert look(store, key) == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("idle", [1e-9, 1e12, float("inf")])
def test_a_lifetime_of_any_length_can_be_kept(store, clock, idle):
    key = put(store, lifetime=Lifetime(idle))
    clock.now += 1.0
    assert look(store, key) == (MISSING if idle < 1 else {"a": b"1"})


# ---------------------------------------------------------------------------------------------------- sweep


def test_what_has_expired_leaves_the_disk_as_calls_go_on_and_nothing_else_does(store, directory, clock):
    for _ in range(300):
        put(store, lifetime=Lifetime(10.0))
    kept = {put(store) for _ in range(5)}
    clock.now += 10
    folder = session_files(directory)[0].parent
    (folder / "notes.txt").write_text("not ours")
    sweep_round(store)
    sweep_round(store)
    assert len(session_files(directory)) == 5
    assert all(look(store, key) == {"a": b"1"} for key in kept)
    assert (folder / "notes.txt").exists()


def test_no_call_removes_more_than_a_few(store, directory, clock):
    for _ in range(100):
        put(store, lifetime=Lifetime(10.0))
    clock.now += 10
    absent = store.id()
    before = 100
    while before:
        look(store, absent)
        after = len(session_files(directory))
        assert before - after <= 4
        before = after


def test_processes_that_live_for_one_call_each_sweep_the_whole_directory_between_them(directory, clock):
    store = FileSessionStore(directory, clock=clock)
    for _ in range(6):
        # All in one shard, beside live ones that a sweep from the beginning would always meet first.
        for lifetime in (HOUR, HOUR, HOUR, HOUR, HOUR, Lifetime(10.0)):
            assert drive(store.set("AAAA" + store.id()[4:], {"a": b"1"}, lifetime)) is APPLIED
    clock.now += 10
    # Each meets one in eighteen of them: of 100, one round in fifty would leave one.
    for _ in range(400):
        short = FileSessionStore(directory, clock=clock)
        for _ in range(8):
            look(short, store.id())
    assert len(session_files(directory)) == 30


def test_a_session_that_is_touched_while_it_is_swept_stays(store, directory, clock, monkeypatch):
    key = put(store, lifetime=Lifetime(10.0))
    (file,) = session_files(directory)
    clock.now += 10
    other = FileSessionStore(directory, clock=clock)

    def revive():
        assert drive(other.set(key, {"a": b"new"}, HOUR)) is APPLIED

    store._unseen.append(str(file))
    store._calls = 15
    before_next_lock(monkeypatch, revive)
    assert look(store, store.id()) is MISSING
    assert look(store, key) == {"a": b"new"}


def test_a_sweep_that_is_refused_fails_no_call(store, directory, clock, monkeypatch):
    key = put(store)

    def refuse(*_arguments):
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(os, "scandir", refuse)
    assert look(store, key) == {"a": b"1"}


# ------------------------------------------------------------------------------------------------- failures


class DyingProcessError(BaseException):
    """Stands for the end of a process: nothing catches it."""


def test_a_crash_before_the_rename_leaves_the_old_record_and_a_file_that_is_swept(directory, clock, monkeypatch):
    store = FileSessionStore(directory, clock=clock, durable=True)
    key = put(store)

    def die(*_arguments, **_keywords):
        raise DyingProcessError

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(DyingProcessError):
            drive(store.merge(key, {"b": b"2"}, [], {}))
    assert len(unfinished_files(directory)) == 1
    make_old(unfinished_files(directory)[0])
    successor = FileSessionStore(directory, clock=store._clock)
    assert look(successor, key) == {"a": b"1"}
    assert drive(successor.merge(key, {"c": b"3"}, [], {})) is APPLIED
    sweep_round(successor)
    assert unfinished_files(directory) == []
    assert look(successor, key) == {"a": b"1", "c": b"3"}


@pytest.fixture
def key_of_dead_founder(store, directory, monkeypatch):
    def die(*_arguments, **_keywords):
        raise DyingProcessError

    key = store.id()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", die)
        with pytest.raises(DyingProcessError):
            drive(store.set(key, {"a": b"1"}, HOUR))
    assert len(unfinished_files(directory)) == 1
    return key


def test_a_founder_that_died_after_the_link_left_a_session_that_can_be_ended(store, key_of_dead_founder, monkeypatch):
    before_next_lock(monkeypatch, lambda: drive(store.destroy(key_of_dead_founder)))
    assert drive(store.merge(key_of_dead_founder, {"b": b"2"}, [], {})) is MISSING
    assert look(store, key_of_dead_founder) is MISSING


def test_a_founder_that_died_after_the_link_left_a_session_that_loses_no_write(
    directory, clock, key_of_dead_founder, monkeypatch
):
    store = FileSessionStore(directory, clock=clock, durable=True)
    before_next_lock(monkeypatch, lambda: drive(store.merge(key_of_dead_founder, {"b": b"2"}, [], {})))
    assert drive(store.merge(key_of_dead_founder, {"c": b"3"}, [], {})) is APPLIED
    assert look(store, key_of_dead_founder) == {"a": b"1", "b": b"2", "c": b"3"}


@pytest.mark.parametrize("length", [1, 100, 100_000])
@pytest.mark.parametrize("step", range(3))
def test_a_crash_in_the_middle_of_a_write_in_place_leaves_the_old_record(store, directory, monkeypatch, step, length):
    key = put(store, {"a": b"1" * 50})
    real = os.pwrite
    left = step

    def write_some(file, content, place):
        nonlocal left
        if left == 0:
            raise DyingProcessError
        left -= 1
        # In two pieces, the second of which another try must bring.
        return real(file, content[: max(1, len(content) // 2)] if place else content, place)

    for number in range(3):
        left = step
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", write_some)
            with pytest.raises(DyingProcessError):
                drive(store.merge(key, {"a": b"2" * length}, [], {}))
        assert look(store, key) == {"a": b"1" * 50, **({"n": b"%d" % (number - 1)} if number else {})}
        assert drive(store.merge(key, {"n": b"%d" % number}, [], {})) is APPLIED
    assert unfinished_files(directory) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_a_write_in_place_is_a_store_error_and_the_old_record_stays(store, monkeypatch, error):
    key = put(store)

    def refuse(*_arguments):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(StoreError):
            drive(store.merge(key, {"b": b"2"}, [], {}))
    assert look(store, key) == {"a": b"1"}


def test_a_read_in_the_middle_of_a_write_in_place_gives_the_old_record_or_the_new(store, directory, monkeypatch):
    key = put(store, {"a": b"0" * 3000})
    other = FileSessionStore(directory, clock=store._clock)
    real, seen = os.pwrite, []

    def write_and_look(file, content, place):
        # The lock is held, so who needs it would wait in vain.
        seen.append(look(other, key))
        return real(file, content, place)

    monkeypatch.setattr(os, "pwrite", write_and_look)
    for value in (b"1" * 3000, b"2" * 100, b"3" * 9000, b"4" * 3000):
        before = look(store, key)
        assert drive(store.merge(key, {"a": value}, [], {})) is APPLIED
        assert seen == [before] * len(seen)
        assert look(store, key) == {"a": value}
        seen.clear()


def test_a_file_that_is_met_while_it_is_written_is_read_when_it_is(store, directory, monkeypatch):
    key = put(store)
    (file,) = session_files(directory)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    before_next_lock(monkeypatch, lambda: file.write_bytes(whole))
    assert look(store, key) == {"a": b"1"}


def test_a_file_that_goes_while_it_is_waited_for_is_absent(store, directory, monkeypatch):
    key = put(store)
    (file,) = session_files(directory)
    file.write_bytes(b"damaged")
    before_next_lock(monkeypatch, file.unlink)
    assert look(store, key) is MISSING


@pytest.mark.parametrize("durable", [False, True])
def test_no_call_leaves_a_file_open(directory, durable):
    store = FileSessionStore(directory, durable=durable)
    before = len([*Path("/dev/fd").iterdir()])
    key = put(store)
    assert drive(store.merge(key, {"a": b"2"}, [], {})) is APPLIED
    assert look(store, key) == {"a": b"2"}
    session_files(directory)[0].write_bytes(b"damaged")
    with pytest.raises(RecordError):
        look(store, key)
    assert drive(store.destroy(key)) is True
    assert len([*Path("/dev/fd").iterdir()]) == before


def test_a_file_stays_near_the_size_of_its_session(store, directory):
    key = put(store)
    chance = random.Random(5)
    (file,) = session_files(directory)
    for _ in range(200):
        value = b"x" * chance.choice([1, 100, 5_000, 100_000])
        assert drive(store.merge(key, {"a": value}, [], {})) is APPLIED
        assert look(store, key) == {"a": value}
        assert file.stat().st_size < 5 * len(value) + 10_000 + 100_000 * (len(value) > 5_000)


def test_a_file_that_is_being_written_is_not_swept_until_it_is_old(store, directory):
    key = put(store)
    (file,) = session_files(directory)
    unfinished = file.with_name(f"{file.name}.0.new")
    unfinished.write_bytes(b"half")
    sweep_round(store)
    assert unfinished.exists()
    make_old(unfinished)
    sweep_round(store)
    assert not unfinished.exists()
    assert look(store, key) == {"a": b"1"}


def test_a_writer_that_was_stopped_until_its_file_was_swept_fails_and_writes_nothing(directory, clock, monkeypatch):
    store = FileSessionStore(directory, clock=clock, durable=True)
    key = put(store)
    real = os.replace

    def replace(unfinished, file):
        Path(unfinished).unlink()
        return real(unfinished, file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(StoreError):
            drive(store.merge(key, {"a": b"2"}, [], {}))
    assert look(store, key) == {"a": b"1"}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("step", ["open", "write", "close", "replace", "fsync"])
def test_a_disk_that_refuses_is_a_store_error_and_the_old_record_stays(directory, clock, monkeypatch, step, error):
    store = FileSessionStore(directory, clock=clock, durable=True)
    key = put(store)
    files = {}

    def failing(name, real):
        def call(target, *arguments, **keywords):
            new = (
                str(target).endswith(".new") if name in {"open", "replace"} else files.get(target, "").endswith(".new")
            )
            if name == step and new:
                if name == "close":
                    real(target)
                raise OSError(error, os.strerror(error))
            result = real(target, *arguments, **keywords)
            if name == "open":
                files[result] = str(target)
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("open", "write", "close", "fsync"):
            patch.setattr(os, name, failing(name, getattr(os, name)))
        patch.setattr(os, "replace", failing("replace", os.replace))
        for call in (store.merge(key, {"b": b"2"}, [], {}), store.set(key, {"b": b"2"}, HOUR, expect={})):
            with pytest.raises(StoreError, match=str(directory)):
                drive(call)
    assert unfinished_files(directory) == []
    assert look(store, key) == {"a": b"1"}
    assert drive(store.merge(key, {"b": b"2"}, [], {})) is APPLIED
    assert look(store, key) == {"a": b"1", "b": b"2"}


def test_a_write_that_the_system_takes_in_pieces_is_whole(store, monkeypatch):
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, content: real(file, content[:7]))
        key = put(store, {"a": b"0123456789" * 10})
    assert look(store, key) == {"a": b"0123456789" * 10}
    real_in_place = os.pwrite
    with monkeypatch.context() as patch:
        # The head is written in one piece.
        patch.setattr(
            os, "pwrite", lambda file, content, place: real_in_place(file, content[: 7 if place else None], place)
        )
        assert drive(store.merge(key, {"a": b"9876543210" * 10}, [], {})) is APPLIED
    assert look(store, key) == {"a": b"9876543210" * 10}


def test_a_folder_that_somebody_else_makes_at_the_same_moment_is_used(store, monkeypatch):
    real = os.mkdir

    def make(*arguments):
        real(*arguments)
        real(*arguments)

    monkeypatch.setattr(os, "mkdir", make)
    key = put(store)
    assert look(store, key) == {"a": b"1"}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("step", ["open", "write", "close", "link", "mkdir"])
def test_a_disk_that_refuses_a_new_session_is_a_store_error_and_leaves_nothing(
    store, directory, monkeypatch, step, error
):
    def failing(name, real):
        def call(target, *arguments, **keywords):
            if name == "close":
                real(target)
            if name != "open" or str(target).endswith(".new"):
                raise OSError(error, os.strerror(error))
            return real(target, *arguments, **keywords)

        return call

    key = store.id()
    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing(step, getattr(os, step)))
        with pytest.raises(StoreError, match=str(directory)):
            drive(store.set(key, {"a": b"1"}, HOUR))
    assert session_files(directory) == unfinished_files(directory) == []
    assert drive(store.set(key, {"a": b"1"}, HOUR)) is APPLIED


@pytest.mark.parametrize("gone", ["directory", "content"])
def test_a_folder_that_has_gone_is_a_store_error_and_no_absent_session(store, directory, gone):
    key = put(store)
    directory.rename(directory.with_name("moved"))
    if gone == "content":
        directory.mkdir()
    for call in (
        store.get(key, {}),
        store.set(key, {"a": b"1"}, HOUR),
        store.merge(key, {"a": b"2"}, [], {}),
        store.destroy(key),
    ):
        with pytest.raises(StoreError, match="No such file"):
            drive(call)
    directory.exists() and directory.rmdir()
    directory.with_name("moved").rename(directory)
    assert look(store, key) == {"a": b"1"}


def test_a_wait_for_a_lock_ends_with_a_store_error(directory, clock):
    store = FileSessionStore(directory, clock=clock, timeout=0.02)
    key = put(store)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, session_files(directory)[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        clock.now += 1800
        for call in (
            store.get(key, {}),
            store.set(key, {"a": b"2"}, HOUR),
            store.merge(key, {"a": b"2"}, [], {}),
            store.destroy(key),
        ):
            with pytest.raises(StoreError, match=r"held by others for 0\.0\d+ seconds"):
                drive(call)
        holder.kill()
    # A lock dies with its process.
    assert drive(store.merge(key, {"b": b"2"}, [], {})) is APPLIED
    assert look(store, key) == {"a": b"1", "b": b"2"}


HOLD = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_child_forked_in_the_middle_of_a_call_holds_no_lock_after_it(store, monkeypatch):
    key = put(store)
    real, children = os.open, []

    def open_and_fork(path, *arguments, **keywords):
        file = real(path, *arguments, **keywords)
        if str(path).endswith(".session"):
            # A forked child shares the parent's open files, as those that `dup` makes.
            children.append(os.dup(file))
        return file

    monkeypatch.setattr(os, "open", open_and_fork)
    try:
        assert drive(store.merge(key, {"b": b"2"}, [], {})) is APPLIED
        assert drive(store.merge(key, {"c": b"3"}, [], {})) is APPLIED
        # Once in some calls a sweep opens it as well.
        assert len(children) >= 2
    finally:
        for child in children:
            os.close(child)


# ----------------------------------------------------------------------------------------------- durability


def logged_calls(monkeypatch, log):
    """Write down, by names of files, what the store asks of the system."""
    names = {}
    reals = {name: getattr(os, name) for name in ("open", "write", "fsync", "close", "unlink", "link", "replace")}

    def opened(path, *arguments, **keywords):
        file = reals["open"](path, *arguments, **keywords)
        names[file] = "new" if str(path).endswith(".new") else "folder" if Path(path).is_dir() else "other"
        return file

    def on_file(name):
        def call(file, *arguments):
            log.append(f"{name} {names.get(file, 'other')}")
            return reals[name](file, *arguments)

        return call

    def on_path(name):
        def call(path, *arguments):
            log.append(f"{name} new" if str(path).endswith(".new") else name)
            return reals[name](path, *arguments)

        return call

    monkeypatch.setattr(os, "open", opened)
    for name in ("write", "fsync", "close"):
        monkeypatch.setattr(os, name, on_file(name))
    for name in ("link", "replace", "unlink"):
        monkeypatch.setattr(os, name, on_path(name))


DURABLE_WRITE = ["write new", "fsync new", "close new", "replace new", "fsync folder"]


def test_a_durable_write_reaches_the_disk_before_its_name_and_its_name_before_the_call_returns(
    directory, clock, monkeypatch
):
    store = FileSessionStore(directory, clock=clock, durable=True)
    log = []
    logged_calls(monkeypatch, log)

    def steps():
        taken = [step for step in log if "other" not in step and step != "close folder"]
        log.clear()
        return taken

    key = put(store)
    assert steps() == [
        *("fsync folder", "write new", "fsync new", "close new", "link new", "unlink new", "fsync folder")
    ]
    assert drive(store.merge(key, {"b": b"2"}, [], {})) is APPLIED
    assert steps() == DURABLE_WRITE
    assert drive(store.set(key, {"b": b"2"}, HOUR, expect={})) is APPLIED
    assert steps() == DURABLE_WRITE
    assert drive(store.destroy(key)) is True
    assert steps() == ["unlink", "fsync folder"]


def test_a_store_that_is_not_durable_never_waits_for_the_disk(directory, clock, monkeypatch):
    log = []
    logged_calls(monkeypatch, log)
    store = FileSessionStore(directory, clock=clock)
    key = put(store)
    drive(store.merge(key, {"b": b"2"}, [], {}))
    drive(store.destroy(key))
    assert "link new" in log
    assert not [step for step in log if step.startswith("fsync")]


def test_a_durable_store_brings_its_own_folders_to_the_disk(directory, clock, monkeypatch):
    log = []
    logged_calls(monkeypatch, log)
    FileSessionStore(directory, clock=clock, durable=True)
    assert log.count("fsync folder") == 2


# ----------------------------------------------------------------------------------- threads and processes


def test_many_threads_that_merge_different_fields_of_one_record_lose_none(directory):
    store = FileSessionStore(directory)
    key = put(store)

    def merge(thread):
        for number in range(10):
            assert drive(store.merge(key, {f"{thread}-{number}": b"x"}, [], {})) is APPLIED

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(merge, range(20)))
    assert set(look(store, key)) == {"a"} | {f"{thread}-{number}" for thread in range(20) for number in range(10)}


MERGE = """
import sys
from server_session._colour import drive
from server_session.stores import _files
from server_session.stores._base import APPLIED, CONFLICT
from server_session.stores.file import FileSessionStore
directory, key, process = sys.argv[1:]
store = FileSessionStore(directory, timeout=120)
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    assert drive(store.merge(key, {f"{process}-{number}": b"x"}, [], {})) is APPLIED
    while True:
        count = drive(store.get(key, {}))["count"]
        done = drive(store.merge(key, {"count": b"%d" % (int(count) + 1)}, [], {"count": count}))
        if done is APPLIED:
            break
        assert done is CONFLICT
"""


def test_several_processes_that_change_one_record_lose_no_field_and_no_count(directory):
    store = FileSessionStore(directory)
    key = put(store, {"count": b"0"})
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MERGE, directory, key, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    fields = look(store, key)
    assert fields.pop("count") == b"200"
    assert set(fields) == {f"{process}-{number}" for process in range(4) for number in range(50)}


def test_readers_without_a_lock_never_meet_half_a_record(directory, clock):
    store = FileSessionStore(directory, clock=clock)
    key = put(store, {"a": b"0" * 4000, "b": b"0" * 4000})
    random_lengths = random.Random(3)
    writes = [b"%d" % (number % 10) * random_lengths.randrange(1, 9000) for number in range(150)]
    over = False

    def read():
        seen = 0
        while not over:
            fields = drive(store.get(key, {}))
            assert fields["a"] == fields["b"]
            seen += 1
        return seen

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for value in writes:
                clock.now += 600
                assert drive(store.merge(key, {"a": value, "b": value}, [], {})) is APPLIED
        finally:
            over = True
        assert all(reader.result() for reader in readers)
