"""What is sent: small programs for agents, made from a seed.

A message of type "do" is an order: a number and operations. The number counts the messages of one sender to one agent
in one lane (a *stream*), so the agent itself notices whatever is lost, doubled or out of order, in bounded state. An
order that will fail has number 0 and must end as a dead letter; so has a fickle one, which may. Questions are streams
of their own, since they leave in the middle of a turn, and a turn that fails asks nothing.

    ["add", k]                       value += k
    ["pay", target, lane, amount]    take it from the own balance, send an order with ["take", amount]
    ["send", target, lane, [ops]]    send an order
    ["ask", target, lane, [ops]]     ask that an order be carried out, and wait for the answer
    ["step"]                         a durable step that draws a random number
    ["sleep", seconds]
    ["flaky", times]                 raise that often, then go on
    ["lock", target, lane, name]     hold a lock (Redis), and send an order with ["enter_locked", name, token] meanwhile
    ["fail"]                         raise, after everything before it
    ["fickle"]                       a step whose arguments change: to be refused if the turn runs again
"""

from __future__ import annotations

import random
import uuid
import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from tests.chaos.wire import Order, write_envelope

AGENT = "Clerk"
DO, REPORT = "do", "report"
ANSWER = "rookery.reply"  # of an agent to an agent
# Whom an agent writes to: the one so much further on, so that senders and receivers of an agent stay few.
STRIDES = (1, 17, 101)
LOCKS = 20


class Command(NamedTuple):
    """One message of a client before it has a number; `fails` says that it must or may become a dead letter."""

    target: str
    lane: int
    ops: list[list[object]]
    asks: bool
    fails: bool


def address(number: int) -> str:
    """The address of an agent."""
    return f"{AGENT}/{number}"


def commands(seed: int, agents: int, emphasis: Mapping[str, float] = MappingProxyType({})) -> Iterator[Command]:
    """An endless workload; the same seed gives the same. `emphasis` is the share of kinds: "fickle", "long", "lock"."""
    rng = random.Random(seed)
    fickle, long, lock = emphasis.get("fickle", 0.01), emphasis.get("long", 0.001), emphasis.get("lock", 0.0)
    while True:
        me = rng.randrange(agents)
        ops = _program(rng, me, agents, depth=2)
        if rng.random() < long:
            ops.append(["sleep", 4])  # longer than a message stays in the inbox
        if lock and rng.random() < lock:
            number = rng.randrange(min(LOCKS, agents))  # each lock protects something that one agent keeps
            ops.append(["lock", address(number), _lane(rng), f"lock-{number}"])
        end = rng.random()
        fails = end < 0.01 + fickle and all(op[0] != "ask" for op in ops)
        if fails:
            ops.append(["fail"] if end < 0.01 else ["fickle"])
        yield Command(address(me), _lane(rng), ops, asks=rng.random() < 0.1, fails=fails)


def _program(rng: random.Random, me: int, agents: int, depth: int) -> list[list[object]]:
    ops: list[list[object]] = [["add", rng.randrange(1, 100)]]
    kind = rng.random()
    if depth and kind < 0.45:
        other = (me + rng.choice(STRIDES)) % agents
        ops.append(["send", address(other), _lane(rng), _program(rng, other, agents, depth - 1)])
    elif kind < 0.6:
        ops.append(["pay", address((me + rng.choice(STRIDES)) % agents), _lane(rng), rng.randrange(1, 10)])
    elif kind < 0.65:
        ops.append(["sleep", round(rng.random() * 0.2, 3)])
    elif kind < 0.69:
        ops.append(["step"])
    elif kind < 0.70:
        ops.append(["flaky", rng.randrange(1, 4)])
    elif kind < 0.73 and depth and (other := me + rng.choice(STRIDES)) < agents:  # only upwards: nobody waits in a ring
        ops.append(["ask", address(other), _lane(rng), _program(rng, other, agents, depth=0)])
    return ops


def _lane(rng: random.Random) -> int:
    return rng.choices((0, 1, 2), (2, 6, 2))[0]


def chain(before: int, message_id: str) -> int:
    """A running digest of the ids that a stream brought, in their order."""
    return zlib.crc32(message_id.encode(), before)


def encode(sender: str, command: Command, n: int, now_ns: int, reply_to: str) -> tuple[str, bytes]:
    """(id, record value) of a client's message."""
    message_id = uuid.uuid4().hex
    value = write_envelope(
        sender=sender,
        target=command.target,
        payload=msgspec.json.encode(Order(0 if command.fails else n, command.ops)),
        timestamp=now_ns,
        priority=command.lane,
        id=message_id,
        type=DO,
        content_type="application/json",
        reply_to=reply_to if command.asks else "",
    )
    return message_id, value


def poison(rng: random.Random, target: str, now_ns: int) -> bytes | None:
    """A record that nobody can handle: it must be given up with its bytes, and nothing else may happen."""
    good = write_envelope(
        sender="client:poisoner",
        target=target,
        payload=msgspec.json.encode(Order(0, [["add", 1]])),
        timestamp=now_ns,
        priority=1,
        id=uuid.uuid4().hex,
        type=DO,
        content_type="application/json",
    )
    kind = rng.randrange(6)
    if kind == 0:  # one bit
        at = rng.randrange(len(good) * 8)
        return good[: at // 8] + bytes((good[at // 8] ^ 1 << at % 8,)) + good[at // 8 + 1 :]
    if kind == 1:  # cut off
        return good[: rng.randrange(len(good))]
    if kind == 2:  # noise
        return rng.randbytes(rng.randrange(200))
    if kind == 3:  # noise under a CRC that fits
        noise = rng.randbytes(rng.randrange(8, 60))
        return noise + b"\x7d" + zlib.crc32(noise).to_bytes(4, "little")
    if kind == 4:
        return None
    return write_envelope(  # a type that the agent does not know
        sender="client:poisoner", target=target, payload=b"{}", priority=1, id=uuid.uuid4().hex, type="nonsense"
    )
