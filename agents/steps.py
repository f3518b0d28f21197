"""Durable steps: what a turn has done outside, committed before the turn goes on, and never done again.

`Agent.step` runs a function and commits its result; `Agent.ask` commits and sends a request, waits for the reply, and
commits that. When the turn runs again, after a crash or a failure, finished steps return what is recorded. So a handler
must call the same steps in the same order with the same arguments: each records kind, name and a digest, and a replay
that differs is a StepMismatch. A step's number is allotted when it is called, also in `asyncio.gather`.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from rookery.agents.errors import AskCycle, OutsideTurn, StepFailed, StepMismatch
from rookery.agents.supervision import Policy, Supervision
from rookery.schemas import payload as codecs
from rookery.schemas.cells import Step, StepState
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import AgentError, AskTimeout, PayloadError
from rookery.schemas.system import ASK_PREFIX, ASKING_HEADER, Failure

if TYPE_CHECKING:
    from rookery.agents.effects import Outgoing, TurnContext

_STEP, _ASK = "step", "ask"
# Agents that wait for each other in one chain of asks.
ASK_DEPTH_MAX = 32
# The text of an error that a cell keeps, characters.
_TEXT_MAX = 2_000
_DIGEST_BYTES = 16

_key: ContextVar[str] = ContextVar("rookery_idempotency_key")


class StepLog(Protocol):
    """What the engine keeps of the steps of one turn."""

    @property
    def ask_timeout(self) -> float:
        """How long an ask waits by default, seconds."""

    def now_ns(self) -> int:
        """The clock, nanoseconds since the epoch."""

    def key(self, index: int) -> str:
        """An idempotency key: the same whenever this step of this message runs, and no other's."""

    def begin(self) -> tuple[int, Step | None]:
        """Allot the next step; returns its number and what is recorded of it. Raises OutsideTurn after the turn."""

    async def record(self, index: int, step: Step, request: Outgoing | None = None) -> None:
        """Commit a step, and with it a message that leaves now; returns once the log has it. Raises BatchTooLarge."""

    async def reply(self, index: int) -> Step:
        """The finished form of a pending ask, once its reply is committed; waits for ever."""

    async def expire(self, index: int, step: Step) -> Step:
        """Commit the failure of a pending ask, unless its reply has come meanwhile; returns what counts."""

    def waiting(self) -> AbstractAsyncContextManager[None]:
        """While this is open, another turn may have our slot of the pool."""

    def close(self) -> None:
        """The turn is over."""


def is_in_step() -> bool:
    """Whether the caller is the function of a step."""
    return _key.get(None) is not None


def idempotency_key() -> str:
    """Inside a step: a key for the outside world that is the same whenever this step of this message runs again.

    Raises OutsideTurn anywhere else.
    """
    try:
        return _key.get()
    except LookupError:
        raise OutsideTurn("?", "idempotency_key() outside a step, or a step") from None


# -- step ------------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """What a step does: call `function(*args)`, again as `supervision` says, and read the result as `returns`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    supervision: Supervision
    returns: Any

    async def result(self, key: str) -> Any:
        """Call it until it succeeds or is given up; raises what it raised last."""
        import asyncio  # not with the API: its first import takes longer than all of ours

        token = _key.set(key)
        attempt = 0
        try:
            while True:
                attempt += 1
                try:
                    async with asyncio.timeout(self.supervision.timeout):
                        result = self.function(*self.args)
                        return await result if isawaitable(result) else result
                except Exception as error:
                    if self.supervision.policy(error, attempt) is not Policy.RETRY:
                        raise
                    await asyncio.sleep(self.supervision.delay(error, attempt, 0.5))
        finally:
            _key.reset(token)


def step(context: TurnContext, name: str, call: Call) -> Coroutine[Any, Any, Any]:
    """See Agent.step."""
    call.supervision.check(context.address)
    decode = _decoder(call.function, call.returns)
    log, fresh = context.open(), Step(_STEP, name, _digest(name, call.args), StepState.PENDING)
    index, known = _begin(log, context, fresh)
    return _step(log, context, index, known or fresh, call, decode)


async def _step(log: StepLog, context: TurnContext, index: int, step: Step, call: Call, decode: codecs.Decoder) -> Any:
    cause: BaseException | None = None
    if step.state is StepState.PENDING:
        async with log.waiting():
            try:
                _, content_type, data = codecs.encode(await call.result(log.key(index)))
                step = msgspec.structs.replace(step, state=StepState.DONE, content_type=content_type, payload=data)
            except Exception as error:
                cause = error
                text = str(error)[:_TEXT_MAX].encode(errors="replace").decode()
                step = msgspec.structs.replace(step, state=StepState.FAILED, error=type(error).__name__, text=text)
            await log.record(index, step)
    if step.state is StepState.FAILED:
        raise StepFailed(context.address, step.name, step.error, step.text) from cause
    return decode(step.payload, step.content_type)


def _decoder(function: Callable[..., Any], returns: Any) -> codecs.Decoder:
    """How a result is read back: also the first time, so that a replay gives the same."""
    if returns is None:
        try:
            returns = typing.get_type_hints(function).get("return", Any)
        except (NameError, TypeError, AttributeError):
            returns = Any  # a builtin, a partial, a lambda
        if typing.get_origin(returns) in (Awaitable, Coroutine) or returns is type(None):
            returns = Any
    return codecs.decoder_for(returns)


# -- ask -------------------------------------------------------------------------------------------------------------


class Question(NamedTuple):
    """What an ask sends: a message to a target, with a deadline in `timeout` seconds (None: the usual)."""

    target: str
    message: tuple[str, str, bytes]  # type name, content type, payload
    timeout: float | None
    priority: Priority
    headers: dict[str, str]


def ask(context: TurnContext, question: Question, reply_type: Any) -> Coroutine[Any, Any, Any]:
    """See Agent.ask."""
    decode = codecs.decoder_for(Any if reply_type is None else reply_type)
    log, target = context.open(), question.target
    chain = _chain(context, target)
    seconds = log.ask_timeout if question.timeout is None else question.timeout
    deadline = log.now_ns() + int(seconds * 1e9)
    # The mark by which the answering side knows that the reply is for a step.
    request_id = ASK_PREFIX + context.new_id()
    digest = _digest(target, question.message)
    fresh = Step(_ASK, target, digest, StepState.PENDING, request_id=request_id, deadline=deadline)
    index, known = _begin(log, context, fresh)
    if known is not None:
        return _ask(log, context, index, known, None, decode)
    headers = {**question.headers, ASKING_HEADER: chain}
    request = context.request(target, question.message, question.priority, headers, deadline, request_id)
    return _ask(log, context, index, fresh, request, decode)


async def _ask(
    log: StepLog,
    context: TurnContext,
    index: int,
    step: Step,
    request: Outgoing | None,
    decode: codecs.Decoder,
) -> Any:
    import asyncio

    started = log.now_ns()
    if step.state is StepState.PENDING:
        async with log.waiting():
            if request is not None:
                await log.record(index, step, request)
            try:
                async with asyncio.timeout(max(0.0, (step.deadline - log.now_ns()) / 1e9)):
                    step = await log.reply(index)
            except TimeoutError:
                expired = msgspec.structs.replace(step, state=StepState.FAILED, error=AskTimeout.reason, text="")
                step = await log.expire(index, expired)
    if step.state is StepState.DONE:
        return decode(step.payload, step.content_type)
    if step.error == AskTimeout.reason:
        raise AskTimeout(step.name, max(0.0, (step.deadline - started) / 1e9))
    raise AgentError(step.name, step.text, "" if step.error == AgentError.reason else step.error)


def answered(step: Step, error: str | None, content_type: str, data: bytes) -> Step:
    """The finished form of an ask: its reply, or the code and payload of an error reply."""
    if error is None:
        return msgspec.structs.replace(step, state=StepState.DONE, content_type=content_type, payload=data)
    try:
        text = msgspec.json.decode(data, type=Failure).text
    except msgspec.DecodeError:
        text = ""
    return msgspec.structs.replace(step, state=StepState.FAILED, error=error, text=text[:_TEXT_MAX])


def _chain(context: TurnContext, target: str) -> str:
    """The agents that wait for this ask, the asking one last; raises AskCycle if the target is among them."""
    envelope = context.envelope
    asking = envelope.headers.get(ASKING_HEADER, "") if envelope is not None and envelope.headers else ""
    chain = [*filter(None, asking.split("\n")), context.address]
    if target in chain or len(chain) > ASK_DEPTH_MAX:
        raise AskCycle(target, chain)
    return "\n".join(chain)


# -- both ------------------------------------------------------------------------------------------------------------


def _begin(log: StepLog, context: TurnContext, fresh: Step) -> tuple[int, Step | None]:
    index, known = log.begin()
    if known is not None and (known.kind, known.name, known.digest) != (fresh.kind, fresh.name, fresh.digest):
        raise StepMismatch(context.address, index, f"{known.kind} {known.name}", f"{fresh.kind} {fresh.name}")
    return index, known


def _digest(name: str, args: tuple[Any, ...]) -> bytes:
    try:
        data = _arguments.encode(args)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PayloadError(f"the arguments of step {name!r} can't be told apart: {error}") from error
    return hashlib.blake2b(name.encode() + b"\0" + data, digest_size=_DIGEST_BYTES).digest()


def _unknown(value: Any) -> Any:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        content = codecs.plain(value)
    except Exception:  # a model's own serializers may raise anything
        content = None
    # A client or connection that is passed along: its class has to do.
    return name if content is None else (name, content)


_arguments = msgspec.msgpack.Encoder(enc_hook=_unknown, order="deterministic")
