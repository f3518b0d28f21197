"""`faust -A <module> dlq list|show|replay|purge|export`: dead letters for people and for scripts.

What is done stands in `deadletters` and `replay`; here are words and tables. Results go to stdout, everything else to
stderr.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from textwrap import indent
from typing import IO, Any, TextIO

import click
from faust.cli.base import argument, cli, option

from rookery.streams.kafka.cli import Command
from rookery.streams.kafka.deadletters import DeadLetterBox, Letter, Selection, iso
from rookery.streams.kafka.replay import How, Replayer
from rookery.streams.kafka.screen import clean, counter, short, show_table

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# What `dlq show` prints of a payload, characters.
PAYLOAD_MAX = 20_000


class Moment(click.ParamType):
    """A point in time as milliseconds since the epoch: `2h` ago, or ISO 8601 (UTC unless it says otherwise)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See the class."""
        if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", value):
            return round((time.time() - float(ago[1]) * UNITS[ago[2]]) * 1000)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither an age such as 30m, 2h, 7d nor a time such as 2026-01-31T12:00", param, ctx
            )
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class Place(click.ParamType):
    """`partition/offset` in the dead-letter topic, as `dlq list` prints it."""

    name = "letter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """See the class."""
        if not (found := re.fullmatch(r"(\d{1,9})/(\d{1,18})", value)):
            self.fail(f"{value!r} is no letter: write partition/offset, as `dlq list` prints it", param, ctx)
        return int(found[1]), int(found[2])


FILTERS = [
    option("--reason", "reasons", multiple=True, help="such as handler-failed; may be repeated"),
    option("--type", "types", multiple=True, metavar="MESSAGE", help="type of the message; may be repeated"),
    option("--agent-type", "agent_types", multiple=True, metavar="TYPE", help="class of the agent; may be repeated"),
    option("--agent", default="", metavar="ADDRESS", help="address of the agent, or a glob such as 'Order/*'"),
    option("--since", "since_ms", type=Moment(), help="dead since then: an age (30m, 2h, 7d) or ISO 8601, UTC"),
    option("--until", "until_ms", type=Moment(), help="dead before then"),
    option("--replayed/--pending", "replayed", default=None, help="only what was, or was not, sent again"),
]
JSON = option("--json", "as_json", is_flag=True, help="one JSON object a line")


def selection(*, letters: tuple[tuple[int, int], ...] = (), **given: Any) -> Selection:
    """The selection that the options of FILTERS ask for."""
    sets: dict[str, Any] = {name: frozenset(given.pop(name)) for name in ("reasons", "types", "agent_types")}
    return Selection(**sets, **given, places=frozenset(letters))


@cli.group(help="List, show, replay, purge and export dead letters.")
def dlq() -> None:
    """The group of the commands below."""


class DlqCommand(Command):
    """A command below `dlq`."""

    abstract = True

    @classmethod
    def as_click_command(cls) -> Any:
        """Register below `dlq`; Faust calls this."""

        @click.pass_context
        def run(ctx: click.Context, /, **options: Any) -> None:
            cls(ctx, **options)()

        for add in reversed(cls.options or []):
            run = add(run)
        return dlq.command(name=cls.__name__.removeprefix("dlq_"), help=cls.__doc__)(run)

    def box(self) -> DeadLetterBox:
        """The dead letters of the application."""
        return DeadLetterBox(self.rookery.settings.app_id, self.rookery.client_kwargs)

    def note(self, text: str) -> None:
        """Say something that is no result."""
        click.echo(text, err=True)


class dlq_list(DlqCommand):  # noqa: N801 - the name of the command
    """List dead letters, the newest first; with --summary count all of them by reason."""

    options = [  # noqa: RUF012
        *FILTERS,
        option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="letters at most"),
        option("--summary", is_flag=True, help="count by reason instead"),
        JSON,
    ]

    async def run(self, *, limit: int, summary: bool, as_json: bool, **filters: Any) -> None:
        """Print a table, or JSON."""
        wanted = selection(**filters)
        async with self.box() as box:
            if summary:
                await self._summary(box, wanted, as_json)
                return
            letters = await box.newest(wanted, limit)
        if as_json:
            for letter in letters:
                self.say(json.dumps(letter.as_dict()))
            return
        if not letters:
            self.note("no dead letters" if wanted.is_everything else "no dead letter is like that")
            return
        rows = []
        for letter in letters:
            content = letter.content
            told = map(short, (content.reason, content.target, content.type, content.error))
            rows.append((letter.place, _seconds(letter.time_ms), *told, "yes" if letter.replayed else ""))
        show_table(self.stdout, ("letter", "time (UTC)", "reason", "agent", "type", "error", "replayed"), rows)
        if len(letters) == limit:
            self.note(f"the newest {limit}; there may be more: --limit, or --summary to count")

    async def _summary(self, box: DeadLetterBox, wanted: Selection, as_json: bool) -> None:
        counts: Counter[str] = Counter()
        replayed: Counter[str] = Counter()
        times: dict[str, tuple[int, int]] = {}
        async for letter in box.letters(wanted):
            reason, at = letter.content.reason, letter.time_ms
            counts[reason] += 1
            replayed[reason] += letter.replayed
            earliest, latest = times.get(reason, (at, at))
            times[reason] = (min(earliest, at), max(latest, at))
        rows = []
        for reason, count in counts.most_common():
            first, last = times[reason]
            row = {"reason": reason, "letters": count, "replayed": replayed[reason]}
            if as_json:
                self.say(json.dumps({**row, "first": iso(first), "last": iso(last)}))
            rows.append((*(clean(str(value)) for value in row.values()), _seconds(first), _seconds(last)))
        if not as_json:
            show_table(self.stdout, ("reason", "letters", "replayed", "first (UTC)", "last (UTC)"), rows)
            self.note(f"{counts.total():,} dead letters")


class dlq_show(DlqCommand):  # noqa: N801
    """Show one dead letter whole: LETTER is partition/offset, as `dlq list` prints it, or the id of the message."""

    options = [argument("letter"), JSON]  # noqa: RUF012

    async def run(self, *, letter: str, as_json: bool) -> None:
        """Print it; exits with 1 when there is none."""
        place = re.fullmatch(r"(\d{1,9})/(\d{1,18})", letter)
        wanted = (
            Selection(places=frozenset({(int(place[1]), int(place[2]))})) if place is not None else Selection(id=letter)
        )
        async with self.box() as box:
            found = await box.newest(wanted, 1)
        if not found:
            raise click.ClickException(f"there is no dead letter {letter}")
        if as_json:
            self.say(json.dumps(found[0].as_full_dict()))
            return
        self.say(describe(found[0]))


class dlq_replay(DlqCommand):  # noqa: N801
    """Send dead letters again, each once, in order. Name LETTERS (partition/offset), or filter, or say --all."""

    options = [  # noqa: RUF012
        argument("letters", nargs=-1, type=Place()),
        *FILTERS,
        option("--all", "everything", is_flag=True, help="all that were not sent again yet"),
        option("--limit", type=click.IntRange(1), default=None, help="messages at most"),
        option("--rate", type=click.FloatRange(0.01, 100_000), default=100.0, show_default=True, help="a second"),
        option("--extend", type=click.FloatRange(0.001), metavar="SECONDS", help="new deadline for those that passed"),
        option("--raw", is_flag=True, help="also what could not be read, byte for byte"),
        option("--again", is_flag=True, help="also what was sent again before: doubles its effects"),
        option("--dry-run", is_flag=True, help="only say what would be sent"),
        JSON,
    ]

    async def run(
        self, *, letters: Any, everything: bool, rate: float, as_json: bool, dry_run: bool, **given: Any
    ) -> None:
        """Send and print the counts; exits with 1 on an error."""
        how = How(rate, given.pop("limit"), given.pop("extend"), given.pop("raw"), given.pop("again"), dry_run)
        wanted = selection(letters=letters, **given)
        if wanted.is_everything and not everything:
            raise click.ClickException("which? Name letters, filter them, or say --all")
        async with self.box() as box:
            replayer = Replayer(box, self.rookery.settings, self.rookery.client_kwargs, how)
            with ExitStack() as stack:
                show = counter(
                    stack, "replayed {task.fields[sent]:,}, refused {task.fields[refused]:,}", sent=0, refused=0
                )
                tally = await replayer.run(wanted, lambda tally: show(sent=tally.sent, refused=tally.refused.total()))
        if as_json:
            counts = {"sent": tally.sent, "skipped": tally.skipped, "refused": dict(tally.refused), "dry_run": dry_run}
            self.say(json.dumps(counts))
            return
        self.say(f"{'would send' if dry_run else 'sent'} {tally.sent:,}, skipped {tally.skipped:,} sent before")
        for why, count in tally.refused.most_common():
            self.say(f"refused {count:,}: {why}")


class dlq_purge(DlqCommand):  # noqa: N801
    """Delete dead letters for ever; without --yes only say what would go.

    Kafka deletes only from the front of a partition, so purging stops at the first letter that is not selected: what
    lies behind it stays until that one is purged, too.
    """

    options = [  # noqa: RUF012
        *FILTERS,
        option("--all", "everything", is_flag=True, help="all there are"),
        option("--yes", is_flag=True, help="do it"),
        JSON,
    ]

    async def run(self, *, everything: bool, yes: bool, as_json: bool, **filters: Any) -> None:
        """Delete or say what would be deleted."""
        wanted = selection(**filters)
        if wanted.is_everything and not everything:
            raise click.ClickException("which? Filter them, or say --all")
        async with self.box() as box:
            cuts = await box.cuts(wanted)
            if yes:
                await box.delete(cuts)
        if as_json:
            for cut in cuts:
                self.say(json.dumps({**cut._asdict(), "done": yes}))
            return
        rows = []
        for cut in cuts:
            if cut.delete or cut.keep:
                behind = "" if cut.behind is None else f"{cut.partition}/{cut.behind}"
                rows.append([str(value) for value in (cut.partition, cut.delete, cut.stop, cut.keep, behind)])
        done = "deleted" if yes else "would be deleted"
        show_table(self.stdout, ("partition", done, "up to offset", "stay", "behind letter"), rows)
        deleted, kept = sum(cut.delete for cut in cuts), sum(cut.keep for cut in cuts)
        self.say(f"{deleted:,} dead letters {'are deleted' if yes else 'would be deleted; add --yes to do it'}")
        if kept:
            self.say(
                f"{kept:,} more are selected but stay: they lie behind others that are not, and Kafka deletes only "
                "from the front of a partition"
            )


class dlq_export(DlqCommand):  # noqa: N801
    """Write dead letters to FILE (or - for stdout), one JSON object a line, with the original record in base64."""

    options = [argument("file", type=click.Path(dir_okay=False, allow_dash=True)), *FILTERS]  # noqa: RUF012

    async def run(self, *, file: str, **filters: Any) -> None:
        """Write; a file that is not whole keeps the ending `.part`."""
        async with self.box() as box:
            if file == "-":
                await self._write(box, selection(**filters), self.stdout)
                return
            with _whole_file(file) as out:
                count = await self._write(box, selection(**filters), out)
        self.note(f"{count:,} dead letters in {file}")

    async def _write(self, box: DeadLetterBox, wanted: Selection, out: IO[str]) -> int:
        count = 0
        async for letter in box.letters(wanted):
            out.write(json.dumps(letter.as_full_dict()) + "\n")
            count += 1
        return count


@contextmanager
def _whole_file(path: str) -> Iterator[TextIO]:
    part = Path(f"{path}.part")
    with part.open("w", encoding="utf-8") as out:
        yield out
    part.replace(path)


def describe(letter: Letter) -> str:
    """A dead letter in full, for people."""
    content = letter.content
    facts = letter.as_dict()
    facts["time"], facts["replayed"] = iso(letter.time_ms), "yes" if letter.replayed else "no"
    first, last = facts.pop("offset"), facts.pop("last_offset")
    facts["record"] = f"{facts.pop('topic')}/{facts.pop('partition')}/{first}" + (f"-{last}" if last > first else "")
    facts["version"] = content.rookery_version
    told = {name: str(value).replace("\n", "\n" + " " * 12) for name, value in facts.items()}
    lines = [f"{name.replace('_', ' '):>10}  {value}" for name, value in told.items() if value]
    if content.headers:
        lines.append("\nheaders")
        lines += [f"  {header.key}: {readable(header.value)}" for header in content.headers]
    lines += ["\npayload", indent(readable(letter.payload), "  ")]
    if content.traceback:
        lines += ["\ntraceback", indent(content.traceback.rstrip(), "  ")]
    return clean("\n".join(lines))


def readable(data: bytes) -> str:
    """JSON indented, other text as it is, anything else as the bytes literal; long data is cut."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = repr(data)
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return text if len(text) <= PAYLOAD_MAX else f"{text[:PAYLOAD_MAX]} ... ({len(data):,} bytes; `dlq export` has all)"


def _seconds(time_ms: int) -> str:
    return iso(time_ms)[:19].replace("T", " ")
