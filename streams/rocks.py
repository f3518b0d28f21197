"""Stores on disk (`ROOKERY_STORE=rocksdb`): one RocksDB per journal partition, in a folder that restarts find again.

The journal is the write-ahead log, so RocksDB keeps none of its own: what is in its memory is lost in a crash and read
again from the journal. Changes and mark stand in one write batch, and memory goes to disk in the order in which it was
written, so what is on disk is always a whole prefix, and recovery goes on at its mark.

    <data_dir>/<app_id>/stores/<partition>/          a<address>  agents          ~pos, ~out/..  as in the journal
                               damaged-<partition>-<n>/   c<key>      cells           @mark @stale @home  of the store
                                                     r<address>  stopped agents, empty

A store that can't be trusted is never mended. One that is damaged or belongs to another journal is put aside; one that
may have missed a tombstone is removed. Either way the journal builds it anew.
"""

import json
import logging
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rookery.schemas.errors import ConfigurationError
from rookery.schemas.journal import CELL_MARK, is_retired
from rookery.schemas.partition_errors import StoreDamaged, StoreFailed
from rookery.streams.core.store import Mark

rocksdict: Any
try:
    import rocksdict
except ImportError:  # an extra
    rocksdict = None

log = logging.getLogger(__name__)

FORMAT = 1
# Memory of all stores of a process: what is not on disk yet, and what was read; bytes.
BUFFERS_BYTES, CACHE_BYTES = 64 << 20, 64 << 20
# Of one store before it is written out: about what a restart after a crash reads again; bytes and seconds.
BUFFER_BYTES, FLUSH_SECONDS = 8 << 20, 60.0
FILES_OPEN_MAX = 100
DAMAGED_KEPT_MAX = 2  # folders put aside, for whoever wants to know why

_MARK, _STALE, _HOME = b"@mark", b"@stale", b"@home"
_MARK_LAYOUT = struct.Struct("<qqd")  # offset, highest lease number, seconds since the Unix epoch
_SIZE = struct.Struct("<I")
# RocksDB has one exception for everything. What the disk or its owner has to mend is no damage of the store.
_NO_DAMAGE = (
    "lock hold", "while lock file", "no space left", "permission denied", "read-only file system",
    "too many open files", "disk quota",
)  # fmt: skip


def stores_folder(data_dir: str, app_id: str) -> Path:
    """Where a worker keeps the stores of an application; `data_dir` is its own."""
    return Path(data_dir) / app_id / "stores"


class RocksStores:
    """The stores of one worker process; `clock` is the wall clock in seconds.

    Raises ConfigurationError when rocksdict is not installed.
    """

    def __init__(self, folder: Path, home: Mapping[str, Any], age_max: float, clock: Callable[[], float]) -> None:
        """`home` is what a store belongs to: it is of no use elsewhere. One that was last known to be complete more
        than `age_max` seconds ago may have missed a tombstone."""
        if rocksdict is None:
            raise ConfigurationError("store rocksdb needs the package rocksdict: pip install 'rookery[rocksdb]'")
        self.folder = folder
        self.clock = clock
        self._home = home
        self._age_max = age_max
        self._buffers = rocksdict.WriteBufferManager(BUFFERS_BYTES, False)
        self._cache = rocksdict.Cache(CACHE_BYTES)
        self._counts = {"opened": 0, "damaged": 0, "too_old": 0}
        self._open: dict[int, RocksStore] = {}

    def statistics(self) -> dict[str, int]:
        """Stores opened, put aside as damaged, removed as too old."""
        return dict(self._counts)

    def open(self, number: int) -> "RocksStore":
        """The store of a journal partition as it was left, empty if it was not fit for use. Raises StoreFailed."""
        if (last := self._open.get(number)) is not None:
            last.close()  # its user was cancelled and has not ended yet
        home = json.dumps({**self._home, "partition": number, "format": FORMAT}, sort_keys=True).encode()
        self._counts["opened"] += 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                store = RocksStore(self, number, home)
            except StoreDamaged as error:
                self.put_aside(number, error)
                store = RocksStore(self, number, home)
        except OSError as error:
            raise StoreFailed(str(self.folder), str(error)) from error
        self._open[number] = store
        age = self.clock() - store.complete_at
        if age > self._age_max:
            log.warning("the store of partition %d was complete %.1f h ago: removed", number, age / 3600)
            self._counts["too_old"] += 1
            store.wipe()
        return store

    def path(self, number: int) -> Path:
        """Where the store of a partition is."""
        return self.folder / str(number)

    def closed(self, store: "RocksStore") -> None:
        """A store was let go."""
        if self._open.get(store.number) is store:
            del self._open[store.number]

    def put_aside(self, number: int, error: Exception) -> None:
        """Move a damaged store out of the way, and forget the oldest of those that were."""
        self._counts["damaged"] += 1
        taken = [int(path.name.rpartition("-")[2]) for path in self.folder.glob("damaged-*-*")]
        aside = self.folder / f"damaged-{number}-{max(taken, default=0) + 1}"
        log.warning("%s; put aside as %s, the journal builds it anew", error, aside)
        self.path(number).rename(aside)
        old = sorted(self.folder.glob("damaged-*-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        for path in old[:-DAMAGED_KEPT_MAX]:
            shutil.rmtree(path, ignore_errors=True)

    def options(self) -> Any:
        """Of one database: small, since there is one for each partition."""
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_bloom_filter(10, False)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        options.set_write_buffer_manager(self._buffers)
        options.set_write_buffer_size(BUFFER_BYTES)
        options.set_max_open_files(FILES_OPEN_MAX)
        options.set_paranoid_checks(True)
        options.set_keep_log_file_num(1)
        options.set_max_log_file_size(1 << 20)
        options.set_max_manifest_file_size(4 << 20)
        options.set_manifest_preallocation_size(64 << 10)
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        return options


class RocksStore:
    """A store on disk, see `Store`; made by `RocksStores.open`."""

    def __init__(self, stores: RocksStores, number: int, home: bytes) -> None:
        self.number = number
        self._stores = stores
        self._home = home
        self.broken: Callable[[Exception], None] = lambda error: None
        self._path = stores.path(number)
        self._damage: StoreDamaged | None = None
        self._is_closed = False
        self._write_options = rocksdict.WriteOptions()
        self._write_options.disable_wal = True
        self._open()

    def _open(self) -> None:
        self._flushed_at = self._stores.clock()
        try:
            self._db = rocksdict.Rdict(str(self._path), self._stores.options())
        except Exception as error:
            raise self._explained(error) from error
        try:
            self._load()
        except Exception:
            self._db.close()
            raise

    def _load(self) -> None:
        try:
            home, mark = self._db.get(_HOME), self._db.get(_MARK)
            if home is None and mark is None and next(iter(self._db.keys()), None) is None:
                self.mark, self.complete_at, self._retired = Mark(), self._stores.clock(), set[bytes]()
                batch = rocksdict.WriteBatch(raw_mode=True)
                batch.put(_HOME, self._home)
                batch.put(_MARK, _packed_mark(self.mark, self.complete_at))
                self._db.write(batch, self._write_options)
                return
            stale = self._db.get(_STALE) or b""
        except Exception as error:
            raise self._explained(error) from error
        if home != self._home or mark is None:
            raise StoreDamaged(str(self._path), f"it belongs to {home!r}, not to {self._home!r}")
        try:
            offset, highest, self.complete_at = _MARK_LAYOUT.unpack(mark)
            self.mark = Mark(offset, highest, frozenset(_unpacked(stale)))
        except (struct.error, ValueError) as error:
            raise StoreDamaged(str(self._path), f"its mark is damaged: {error}") from error
        self._retired = {key[1:] for key, _ in self._scan(b"r")}

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: bytes, /) -> bytes | None:
        """See `Store.get`."""
        try:
            value: bytes | None = self._db.get((b"c" if CELL_MARK in key else b"a") + key)
        except Exception as error:
            raise self._found(error) from error
        return value

    def __contains__(self, key: object, /) -> bool:
        return isinstance(key, bytes) and self.get(key) is not None

    def __len__(self) -> int:
        """RocksDB's estimate."""
        return self._db.property_int_value("rocksdb.estimate-num-keys") or 0

    def control(self) -> dict[bytes, bytes]:
        """See `Store.control`."""
        return dict(self._scan(b"~"))

    def cells(self) -> Iterable[tuple[bytes, bytes]]:
        """See `Store.cells`."""
        return ((key[1:], value) for key, value in self._scan(b"c"))

    def retired(self) -> Iterable[bytes]:
        """See `Store.retired`."""
        return list(self._retired)

    def _scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        # By hand, since rocksdict's own iterators end at a damaged block as if it were the last.
        try:
            cursor = self._db.iter()
            cursor.seek(prefix)
            while cursor.valid():
                key: bytes = cursor.key()
                if not key.startswith(prefix):
                    break
                yield key, cursor.value()
                cursor.next()
            cursor.status()
        except Exception as error:
            raise self._found(error) from error

    # -- writing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Mapping[bytes, bytes | None], mark: Mark, *, at_end: bool = False) -> None:
        """See `Store.apply`. Raises StoreFailed, for example when the disk is full."""
        now = self._stores.clock()
        complete_at = now if at_end else self.complete_at
        batch = rocksdict.WriteBatch(raw_mode=True)
        retired = self._retired
        for key, value in changes.items():
            name = key if key[0] == 0x7E else (b"c" if CELL_MARK in key else b"a") + key
            if value is None:
                batch.delete(name)
            else:
                batch.put(name, value)
            if value is not None and is_retired(key, value):
                retired.add(key)
                batch.put(b"r" + key, b"")
            elif retired and key in retired:
                retired.discard(key)
                batch.delete(b"r" + key)
        if mark.stale != self.mark.stale:
            batch.put(_STALE, _packed(mark.stale))
        batch.put(_MARK, _packed_mark(mark, complete_at))
        try:
            self._db.write(batch, self._write_options)
            if now - self._flushed_at >= FLUSH_SECONDS:
                self._flushed_at = now
                self._db.flush(wait=False)
        except Exception as error:
            raise self._found(error) from error
        self.mark, self.complete_at = mark, complete_at

    # -- its end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See `Store.close`: what is in memory goes to disk, if it can."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stores.closed(self)
        try:
            self._db.close()  # flushes
        except Exception as error:
            log.warning("the store of partition %d keeps less than it might: %s", self.number, error)
        if self._damage is not None and self._path.exists():
            self._stores.put_aside(self.number, self._damage)

    def wipe(self) -> None:
        """See `Store.wipe`. Raises StoreFailed."""
        self._db.close()
        try:
            shutil.rmtree(self._path)
        except OSError as error:
            raise StoreFailed(str(self._path), str(error)) from error
        self._open()

    def _found(self, error: Exception) -> Exception:
        """What to raise for an error of RocksDB; whoever uses the store hears of it first."""
        explained = self._explained(error)
        if not self._is_closed:
            if isinstance(explained, StoreDamaged) and self._damage is None:
                self._damage = explained
            self.broken(explained)
        return explained

    def _explained(self, error: Exception) -> StoreDamaged | StoreFailed:
        text = str(error)
        if isinstance(error, StoreDamaged | StoreFailed):
            return error
        outside = not text.startswith("Corruption") and any(word in text.lower() for word in _NO_DAMAGE)
        if outside or isinstance(error, rocksdict.DbClosedError):
            return StoreFailed(str(self._path), text)
        return StoreDamaged(str(self._path), text)


def _packed_mark(mark: Mark, complete_at: float) -> bytes:
    return _MARK_LAYOUT.pack(mark.offset, mark.highest, complete_at)


def _packed(keys: Iterable[bytes]) -> bytes:
    return b"".join(_SIZE.pack(len(key)) + key for key in keys)


def _unpacked(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size + size
        if at > len(data):
            raise ValueError("a key ends beyond the record")
        yield data[at - size : at]
