"""The ledger of an agent: what the journal holds of it besides its state, while there is something.

- *Adoption*: messages whose turn does not end soon are parked in the journal, so that the inbox's prefix moves on. What
  is parked of a lane is a gap-free run from its head; a lane serves it before anything that comes later.
- *Steps* of the turn in hand, which must run again before any other turn of the agent.
- *Attempts* on the message in hand, and whether the agent is paused.

An agent that needs none of it has no ledger.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from rookery.schemas.cells import (
    Parked,
    Pause,
    Place,
    Step,
    StepState,
    decode_cell,
    encode_cell,
    parked_key,
    read_name,
    step_key,
)
from rookery.schemas.journal import KeyKind, split_key
from rookery.streams.core.mailbox import LANES, Item, Mailbox

# Steps of one turn. Their deletion goes into the batch that ends it, beyond its bound: the keys have to fit the margin
# that a batch leaves below the largest of its topic (RECORD_OVERHEAD_BYTES), so long addresses have fewer.
STEPS_MAX, STEP_KEYS_BYTES_MAX, STEP_KEY_BYTES = 500, 75_000, 100


def steps_max(address_bytes: int) -> int:
    """How many steps a turn of an agent may have whose address takes so many bytes."""
    return min(STEPS_MAX, STEP_KEYS_BYTES_MAX // (address_bytes + STEP_KEY_BYTES))


# A message of the largest size goes into a batch of its own, with this much above the batch's bound for its key and
# headers; the same margin bears it.
ALONE_BYTES = 32_768


class Ledger:
    """See the head of this module."""

    __slots__ = (
        "adopted", "answers", "asks", "attempts", "delay", "not_before", "parked_count", "paused", "place", "steps",
    )  # fmt: skip

    def __init__(self) -> None:
        self.adopted = [-1] * LANES  # by lane: every unfinished message up to this offset is parked
        self.parked_count = 0
        self.place: Place | None = None  # of the message whose turn has steps
        self.steps: dict[int, Step] = {}
        self.asks: dict[str, int] = {}  # requests without a reply: id -> number of the step
        self.answers: dict[int, Callable[[], None]] = {}  # whom to tell that a step is finished: the running turn
        self.attempts = 0  # failed turns of the message in hand
        self.not_before = 0  # when its next turn is due, nanoseconds since the epoch
        self.delay = 0  # and after how many it was put off
        self.paused = False

    @property
    def is_empty(self) -> bool:
        """Whether the agent needs no ledger any more."""
        return not (self.parked_count or self.steps or self.attempts or self.paused)

    def is_parked(self, place: Place) -> bool:
        """Whether an unfinished message is in the journal."""
        return place.offset <= self.adopted[place.lane]

    def note(self, number: int, step: Step) -> None:
        """Remember a step of the turn in hand as it is in the journal."""
        self.steps[number] = step
        if step.state is StepState.PENDING:
            self.asks[step.request_id] = number

    def end_turn(self, address: str, place: Place) -> dict[bytes, bytes | None]:
        """The turn in hand is over for good: forget its steps and attempts; returns what has to be deleted."""
        gone: dict[bytes, bytes | None] = {step_key(address, place, number): None for number in self.steps}
        self.place, self.attempts, self.not_before, self.delay = None, 0, 0, 0
        self.steps, self.asks = {}, {}
        return gone

    def forget_failures(self, address: str, place: Place) -> dict[bytes, bytes | None]:
        """The turn will be tried again, and with it the steps that failed; returns what has to be deleted."""
        failed = [number for number, step in self.steps.items() if step.state is StepState.FAILED]
        for number in failed:
            del self.steps[number]
        return {step_key(address, place, number): None for number in failed}


def _offset_of(item: Item) -> int:
    return item.offset


class Found(NamedTuple):
    """An agent of which a recovered journal holds more than its state."""

    mailbox: Mailbox
    orphans: list[bytes]  # steps of a message that is done: nothing will ever need them


def park(item: Item, ledger: Ledger | None = None) -> bytes:
    """The cell of a message; with a `ledger` it is the one in hand, and that and its attempts are kept, too."""
    record = item.record
    attempts, not_before, delay = 0, 0, 0
    if ledger is not None:
        attempts, not_before, delay = ledger.attempts, ledger.not_before, ledger.delay
    return encode_cell(
        Parked(
            record.key,
            record.value,
            list(record.headers or ()),
            record.timestamp,
            attempts,
            not_before,
            begun=ledger is not None,
            delay=delay,
        )
    )


def recover_ledgers(cells: Iterable[tuple[bytes, bytes]], partition: int, prefixes: tuple[int, ...]) -> list[Found]:
    """Mailboxes with what the cells of a recovered journal say, by agent; raises JournalError on a damaged cell."""
    by_agent: dict[str, dict[str, bytes]] = {}
    for key, value in cells:
        kind, address, cell = split_key(key)
        if kind is KeyKind.CELL:
            by_agent.setdefault(address, {})[cell] = value
    return [_recover(address, named, partition, prefixes) for address, named in sorted(by_agent.items())]


def _recover(address: str, named: Mapping[str, bytes], partition: int, prefixes: tuple[int, ...]) -> Found:
    ledger, mailbox = Ledger(), Mailbox(address, partition)
    mailbox.ledger = ledger
    steps: dict[Place, dict[int, Step]] = {}
    for cell, value in sorted(named.items()):
        form, place, number = read_name(cell)
        if form is Parked:
            if decode_cell(value, Parked).begun:  # before whatever it had overtaken: it may be a spawn
                mailbox.first_lane = place.lane
                mailbox.lanes[place.lane].appendleft(Item.parked(place.offset))
            else:
                mailbox.lanes[place.lane].append(Item.parked(place.offset))
            ledger.adopted[place.lane] = place.offset
            ledger.parked_count += 1
        elif form is Step:
            steps.setdefault(place, {})[number] = decode_cell(value, Step)
        elif form is Pause:
            ledger.paused = mailbox.held = True
    orphans = []
    for place, found in steps.items():
        waiting = any(item.offset == place.offset for item in mailbox.lanes[place.lane])
        if not waiting and place.offset < prefixes[place.lane]:
            orphans += [step_key(address, place, number) for number in found]
            continue
        ledger.place = place
        for number, step in found.items():
            ledger.note(number, step)
        # Its turn goes on before any other of this agent, as soon as its message is here.
        if waiting:
            mailbox.first_lane = place.lane
        else:
            mailbox.held = True
    return Found(mailbox, orphans)


class Entry(Protocol):
    """A finished turn, or a note about one that goes on; see Finished."""

    @property
    def mailbox(self) -> Mailbox | None: ...  # noqa: D102
    @property
    def lane(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def cells(self) -> Mapping[bytes, bytes | None] | None: ...  # noqa: D102
    @property
    def ends(self) -> bool: ...  # noqa: D102


class Ledgers:
    """The ledgers of one partition, and the agents whose messages are to be adopted by the next commit batches."""

    __slots__ = ("_crowded", "_requests", "mailboxes")

    def __init__(self) -> None:
        self.mailboxes: dict[Mailbox, None] = {}  # those with a ledger
        self._requests: dict[Mailbox, None] = {}
        self._crowded: Mailbox | None = None  # its next message found no room beside the turns of a batch

    @property
    def is_quiet(self) -> bool:
        """Whether no agent will do anything by itself: all that have a ledger are paused."""
        return not self._requests and all(
            mailbox.ledger is not None and mailbox.ledger.paused and not mailbox.running for mailbox in self.mailboxes
        )

    @property
    def parked_count(self) -> int:
        """Messages that are in the journal instead of their inbox."""
        return sum(mailbox.ledger.parked_count for mailbox in self.mailboxes if mailbox.ledger is not None)

    def open(self, mailbox: Mailbox) -> Ledger:
        """The ledger of an agent, made if it has none."""
        ledger = mailbox.ledger
        if ledger is None:
            ledger = mailbox.ledger = Ledger()
            self.mailboxes[mailbox] = None
        return ledger

    def request(self, mailbox: Mailbox) -> None:
        """Park the unfinished messages of an agent, as soon as its finished turns are in the journal."""
        self.open(mailbox)
        self._requests[mailbox] = None

    def take_crowded(self) -> bool:
        """Whether the next batch should go without turns, for a message that has found no room beside them: on a busy
        partition it never would. At most every other batch."""
        mailbox, self._crowded = self._crowded, None
        return mailbox is not None and mailbox in self._requests and not (mailbox.closed or mailbox.unsettled)

    def settle(self, entry: Entry, ledger: Ledger, records: dict[bytes, bytes | None]) -> bool:
        """Put what an entry writes into a batch. True if its message's offset is done by it: the builder decides, since
        a message may have been parked while its turn ran; then the turn ends with its cell."""
        if entry.cells:
            records.update(entry.cells)
        if not entry.ends:
            return False
        place = Place(entry.lane, entry.offset)
        if not ledger.is_parked(place):
            return True
        records[parked_key(entry.mailbox.address, place)] = None  # type: ignore[union-attr]  # it has a ledger
        ledger.parked_count -= 1
        return False

    def adopt(
        self,
        records: dict[bytes, bytes | None],
        entries: Sequence[Entry],
        done: Callable[[int, int], None],
        room: int,
        overhead: int,
    ) -> None:
        """Park what was requested, up to `room` bytes, counting `overhead` for each record.

        An agent's messages can be parked only in or after the batch that holds all its finished turns: else a later
        message were served before an earlier one that a crash brings back from the inbox.
        """
        if not self._requests:
            return
        taken = Counter(entry.mailbox for entry in entries)
        for mailbox in list(self._requests):
            if mailbox.closed or mailbox.ledger is None:
                del self._requests[mailbox]
                continue
            if mailbox.unsettled > taken[mailbox]:
                continue
            whole = True
            for lane in range(LANES):
                size, all_fit = self._adopt_lane(mailbox, mailbox.ledger, lane, records, done, room, overhead)
                room, whole = room - size, whole and all_fit
            if whole:
                del self._requests[mailbox]  # else the rest has to wait for the next batch
            elif entries:
                self._crowded = mailbox

    def _adopt_lane(
        self,
        mailbox: Mailbox,
        ledger: Ledger,
        lane: int,
        records: dict[bytes, bytes | None],
        done: Callable[[int, int], None],
        room: int,
        overhead: int,
    ) -> tuple[int, bool]:
        """Park the run at the head of a lane; returns its size and if that was all. Only what waits leaves memory."""
        size, all_fit = 0, True
        waiting = mailbox.lanes[lane]
        if mailbox.current is not None and mailbox.current_lane == lane:
            in_hand: Item | None = mailbox.current
        else:
            in_hand = waiting[0] if ledger.attempts and mailbox.first_lane == lane and waiting else None
        through = ledger.adopted[lane]
        run = [item for item in waiting if item.offset > through]
        if in_hand is not None and in_hand is mailbox.current and in_hand.offset > through:
            run.append(in_hand)
        # By offset: a spawn goes before what it found waiting, and `adopted` speaks of everything up to it.
        for item in sorted(run, key=_offset_of):
            key = parked_key(mailbox.address, Place(lane, item.offset))
            value = park(item, ledger if item is in_hand else None)
            more = len(key) + len(value) + overhead
            if size + more > room and (records or more > room + ALONE_BYTES):
                all_fit = False
                break
            size += more
            records[key] = value
            done(lane, item.offset)
            ledger.adopted[lane] = item.offset
            ledger.parked_count += 1
        if size:
            through = ledger.adopted[lane]
            light = [
                Item.parked(i.offset) if not i.is_parked and i.offset <= through and i is not in_hand else i
                for i in waiting
            ]
            waiting.clear()
            waiting.extend(light)
        return size, all_fit

    def orphans(self, prefixes: Sequence[int]) -> Iterable[tuple[Mailbox, dict[bytes, bytes | None]]]:
        """Agents that wait for the message of a begun turn which the log has lost, each with what to delete."""
        for mailbox in list(self.mailboxes):
            ledger = mailbox.ledger
            if ledger is None or ledger.place is None or mailbox.running or ledger.is_parked(ledger.place):
                continue
            if ledger.place.offset < prefixes[ledger.place.lane]:
                yield mailbox, ledger.end_turn(mailbox.address, ledger.place)

    def settled(self, mailbox: Mailbox) -> None:
        """A batch of this agent is acknowledged: it may need no ledger any more."""
        if mailbox.ledger is not None and mailbox.ledger.is_empty and not (mailbox.unsettled or mailbox.running):
            mailbox.ledger = None
            del self.mailboxes[mailbox]
