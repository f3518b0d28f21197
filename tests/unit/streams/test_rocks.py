"""Stores on disk: what a restart finds, and what becomes of one that can't be trusted; on real files."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import rocksdict

from rookery.schemas.errors import ConfigurationError
from rookery.schemas.journal import RETIRED, cell_key, encode_agent
from rookery.schemas.partition_errors import StoreDamaged, StoreFailed
from rookery.streams import rocks
from rookery.streams.core.fold import JournalFold
from rookery.streams.core.store import Mark, Store
from rookery.streams.log import JournalRecord
from rookery.streams.rocks import DAMAGED_KEPT_MAX, RocksStore, RocksStores
from tests.cases import quick

HOUR = 3600.0
HOME = {"app": "test", "partitions": 4}


class Disk:
    """A folder with stores, a clock, and what was reported as broken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_000_000.0
        self.broken: list[Exception] = []
        self.stores = self.restart()

    def restart(self, **home: object) -> RocksStores:
        """What the next process makes; stores that are open stay so."""
        self.stores = RocksStores(self.folder, HOME | home, 2 * HOUR, lambda: self.now)
        return self.stores

    def open(self, number: int = 0) -> RocksStore:
        store = self.stores.open(number)
        store.broken = self.broken.append
        return store

    @property
    def aside(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("damaged-*"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "stores")


def contents(store: Store, count: int) -> dict[bytes, bytes]:
    """The agents A/0 to A/<count> that are there."""
    found = {b"A/%d" % n: store.get(b"A/%d" % n) for n in range(count)}
    return {key: value for key, value in found.items() if value is not None}


def journal(count: int, keys: int = 1_000, start: int = 0) -> list[JournalRecord]:
    rng = random.Random(start)
    return [JournalRecord(n, b"A/%d" % (n % keys), rng.randbytes(300), 0) for n in range(start, start + count)]


def fold(store: Store, records: list[JournalRecord]) -> JournalFold:
    folding = JournalFold(store)
    for at in range(0, len(records), 500):
        folding.apply(records[at : at + 500])
    return folding


# -- what a restart finds ---------------------------------------------------------------------------------------------


def test_a_store_is_found_again_as_it_was_left(disk: Disk) -> None:
    store = disk.open()
    cell, retired = cell_key("A/1", "item/1"), encode_agent("A", 1, RETIRED, b"")
    store.apply({b"A/1": b"one", b"A/2": b"two", cell: b"cell", b"~pos": b"position", b"~out/1": b"slot"}, Mark(5, 2))
    store.apply(
        {b"A/2": None, b"A/3": retired, b"A/4": retired, b"~out/1": None}, Mark(9, 2, frozenset({b"x", b"y" * 300}))
    )
    store.apply({b"A/4": encode_agent("A", 1, 0, b"four")}, Mark(11, 10, frozenset({b"y" * 300})))
    for _ in range(2):
        assert store.mark == Mark(11, 10, frozenset({b"y" * 300}))
        assert (store.get(b"A/1"), store.get(b"A/2"), store.get(cell)) == (b"one", None, b"cell")
        assert b"A/1" in store
        assert b"A/2" not in store
        assert list(store.cells()) == [(cell, b"cell")]
        assert list(store.retired()) == [b"A/3"]
        assert store.control() == {b"~pos": b"position"}
        assert len(store) > 0
        store.close()
        disk.restart()
        store = disk.open()
    assert not disk.broken
    store.wipe()
    assert (store.mark, store.get(b"A/1"), list(store.cells()), store.control()) == (Mark(), None, [], {})
    store.close()


def test_stores_of_partitions_are_apart(disk: Disk) -> None:
    one, two = disk.open(1), disk.open(2)
    one.apply({b"A/1": b"one"}, Mark(1))
    assert two.get(b"A/1") is None
    one.close()
    two.close()


def test_opening_again_takes_the_store_from_a_user_that_has_not_ended(disk: Disk) -> None:
    first = disk.open()
    first.apply({b"A/1": b"one"}, Mark(1))
    second = disk.open()
    assert second.get(b"A/1") == b"one"
    with pytest.raises(StoreFailed):
        first.get(b"A/1")
    assert not disk.broken, "what a former user does concerns nobody"
    first.close()
    assert second.get(b"A/1") == b"one"
    second.close()


@pytest.mark.slow
def test_a_killed_process_leaves_a_prefix(disk: Disk) -> None:
    """Whatever was in memory is gone; what is on disk are all writes up to its mark and none above."""
    program = textwrap.dedent("""
        import sys, time, random
        from pathlib import Path
        from rookery.streams import rocks
        from rookery.streams.core.store import Mark
        rocks.BUFFER_BYTES = 200_000
        store = rocks.RocksStores(Path(sys.argv[1]), {"app": "test", "partitions": 4}, 1e9, time.time).open(0)
        n = store.mark.offset
        print("open", flush=True)
        while True:
            n += 1
            store.apply({b"A/%d" % (n % 50): b"%d " % n + random.randbytes(2_000), b"A/last": b"%d" % n}, Mark(n))
    """)
    offset = 0
    disk.now = 10e9
    for wait in (0.3, 0.6):
        with subprocess.Popen([sys.executable, "-c", program, str(disk.folder)], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"open\n"
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(wait)
            finally:
                process.send_signal(signal.SIGKILL)
        disk.stores._age_max = 1e12
        store = disk.open()
        assert store.mark.offset > offset, "some of it reached the disk"
        offset = store.mark.offset
        assert store.get(b"A/last") == b"%d" % offset
        for n in range(max(1, offset - 49), offset + 1):
            value = store.get(b"A/%d" % (n % 50))
            assert value is not None
            assert value.startswith(b"%d " % n)
        store.close()
    assert not disk.aside


def test_what_is_written_reaches_the_disk_after_a_while(disk: Disk) -> None:
    store = disk.open()
    store.apply({b"A/1": b"one"}, Mark(1))
    assert not list(disk.stores.path(0).glob("*.sst"))
    disk.now += rocks.FLUSH_SECONDS
    store.apply({b"A/1": b"two"}, Mark(2))
    store._db.flush()  # waits for the one that was asked for
    assert list(disk.stores.path(0).glob("*.sst"))
    store.close()


# -- what can't be trusted --------------------------------------------------------------------------------------------


def files(folder: Path, pattern: str) -> list[Path]:
    found = [path for path in folder.glob(pattern) if path.stat().st_size]
    assert found, f"no {pattern} in {folder}"
    return found


def overwrite(pattern: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for path in files(folder, pattern):
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                file.write(b"\xff" * 40)

    return damage


def cut(pattern: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for path in files(folder, pattern):
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)

    return damage


def remove(pattern: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for path in files(folder, pattern):
            path.unlink()

    return damage


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("something else")


DAMAGES = {
    "table": overwrite("*.sst"),
    "short table": cut("*.sst"),
    "no table": remove("*.sst"),
    "manifest": overwrite("MANIFEST*"),
    "short manifest": cut("MANIFEST*"),
    "no manifest": remove("MANIFEST*"),
    "current": overwrite("CURRENT"),
    "empty": lambda folder: [path.write_bytes(b"") for path in folder.iterdir()] and None,
    "no folder": no_folder,
}


@pytest.mark.parametrize("name", quick(DAMAGES, 2))
def test_damage_is_found_and_the_journal_builds_the_store_anew(disk: Disk, name: str) -> None:
    records = journal(4_000)
    truth = {record.key: record.value for record in records}
    store = disk.open()
    fold(store, records[:2_000])
    store.close()
    store = disk.open()
    fold(store, records[2_000:])
    store.close()
    DAMAGES[name](disk.stores.path(0))
    for attempt in range(3):
        store = disk.open()
        try:
            resumed = fold(store, records)
            found = contents(store, 1_000)
        except StoreDamaged:
            assert (len(disk.broken), attempt) == (1, 0)
            store.close()
            continue
        assert resumed.offset == 4_000
        assert found == truth, "never a wrong answer"
        store.close()
    if name == "short manifest":
        return  # an earlier state of the store, whole
    assert disk.aside == ["damaged-0-1"]
    assert disk.stores.statistics()["damaged"] == 1


def test_a_scan_says_that_it_met_damage(disk: Disk) -> None:
    """rocksdict's own iterators would end there as if it were the end."""
    store = disk.open()
    store.apply({cell_key("A/1", f"{n:06}"): random.randbytes(300) for n in range(3_000)}, Mark(1))
    store.close()
    overwrite("*.sst")(disk.stores.path(0))
    store = disk.open()
    with pytest.raises(StoreDamaged):
        list(store.cells())
    assert len(disk.broken) == 1
    store.close()
    assert disk.aside == ["damaged-0-1"]


@pytest.mark.parametrize("home", [{"app": "other"}, {"partitions": 8}, {"format": 7}])
def test_a_store_of_another_application_is_not_believed(disk: Disk, home: dict[str, object]) -> None:
    store = disk.open()
    store.apply({b"A/1": b"one"}, Mark(1))
    store.close()
    disk.restart(**home)
    if "format" in home:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rocks, "FORMAT", home["format"])
            store = disk.open()
    else:
        store = disk.open()
    assert (store.mark, store.get(b"A/1")) == (Mark(), None)
    assert disk.aside == ["damaged-0-1"]
    store.close()


def test_a_store_of_another_partition_is_not_believed(disk: Disk) -> None:
    disk.open(1).close()
    disk.stores.path(1).rename(disk.stores.path(2))
    disk.open(2).close()
    assert disk.aside == ["damaged-2-1"]


@pytest.mark.parametrize("value", [b"", b"short", None])
def test_a_mark_that_can_not_be_read_is_damage(disk: Disk, value: bytes | None) -> None:
    store = disk.open()
    store.apply({b"A/1": b"one"}, Mark(1))
    if value is None:
        store._db.delete(rocks._MARK, store._write_options)
    else:
        store._db.put(rocks._MARK, value, store._write_options)
    store.close()
    store = disk.open()
    assert (store.mark, store.get(b"A/1")) == (Mark(), None)
    store.close()
    assert disk.aside == ["damaged-0-1"]


def test_few_damaged_stores_are_kept(disk: Disk) -> None:
    for name in ("damaged-0-8", "damaged-3-9"):
        (disk.folder / name / "x").mkdir(parents=True)
    for number in range(2):
        disk.open(number).close()
        overwrite("CURRENT")(disk.stores.path(number))
        disk.open(number).close()
    assert disk.aside == ["damaged-0-10", "damaged-1-11"]
    assert len(disk.aside) == DAMAGED_KEPT_MAX


def test_a_lock_file_left_behind_is_no_obstacle(disk: Disk) -> None:
    disk.open().close()
    assert (disk.stores.path(0) / "LOCK").exists()
    disk.open().close()
    assert not disk.aside


@pytest.mark.slow
def test_a_store_in_use_by_another_process_is_left_alone(disk: Disk) -> None:
    store = disk.open()
    store.apply({b"A/1": b"one"}, Mark(1))
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from rookery.schemas.partition_errors import StoreFailed
        from rookery.streams.rocks import RocksStores
        try:
            RocksStores(Path(sys.argv[1]), {"app": "test", "partitions": 4}, 1e9, lambda: 1e6).open(0)
        except StoreFailed as error:
            print(error)
    """)
    run = subprocess.run(
        [sys.executable, "-c", program, str(disk.folder)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "data_dir of its own" in run.stdout
    assert store.get(b"A/1") == b"one"
    assert not disk.aside
    store.close()


def test_a_store_that_may_have_missed_a_tombstone_is_removed(disk: Disk) -> None:
    """What counts is when it was last known to be complete, not when it was last written."""
    store = disk.open()
    store.apply({b"A/1": b"one"}, Mark(1), at_end=True)
    disk.now += 1.5 * HOUR
    store.apply({b"A/2": b"two"}, Mark(2))
    store.close()
    store = disk.open()
    assert store.get(b"A/1") == b"one"
    store.close()
    disk.now += HOUR
    store = disk.open()
    assert (store.mark, store.get(b"A/1")) == (Mark(), None)
    assert disk.stores.statistics() == {"opened": 3, "damaged": 0, "too_old": 1}
    store.apply({b"A/3": b"three"}, Mark(3), at_end=True)
    store.close()
    store = disk.open()
    assert store.get(b"A/3") == b"three"
    store.close()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_was_there_stays_true(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "12m"):
        disk = Disk(tmp_path / "small" / "stores")
        store = disk.open()
        records = journal(3_000, keys=3_000)
        fold(store, records)
        store.close()
        store = disk.open()
        ballast = tmp_path / "small" / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(b"x" * (12 << 20))
        with pytest.raises(StoreFailed, match=r"No space left.*make room"):  # noqa: PT012
            for n in range(3_000, 3_000_000, 3_000):
                fold(store, journal(3_000, keys=3_000, start=n))
        assert disk.broken
        store.close()
        ballast.unlink()
        store = disk.open()
        assert store.mark.offset % 500 == 0
        assert len(contents(store, 3_000)) == 3_000
        store.close()
        assert not disk.aside


def test_a_folder_that_may_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed, match="data_dir"):
        Disk(tmp_path / "file" / "stores").open()


def test_without_rocksdict_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocks, "rocksdict", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'rookery\[rocksdb\]'"):
        Disk(tmp_path)


def test_an_error_of_the_library_that_nobody_knows_is_taken_for_damage(disk: Disk) -> None:
    store = disk.open()
    assert isinstance(store._explained(Exception("Corruption: what else")), StoreDamaged)
    assert isinstance(store._explained(rocksdict.DbClosedError("closed")), StoreFailed)
    store.close()
