"""A worker process on the event loop of the simulation: it can be killed or frozen at every single await.

Each task that its code makes runs inside a gate. A dead process is never resumed again: its coroutines are closed where
they stand, as if the machine had lost power. A frozen one is resumed only after the thaw, whatever happened to its
timers and answers meanwhile, like after SIGSTOP and SIGCONT. What it had handed to the network lands all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

_here: contextvars.ContextVar[Gate | None] = contextvars.ContextVar("process", default=None)


class Gate:
    """What all tasks of one process have to pass before each of their steps."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.step_count = 0
        # Called at the step with this number; how "crash at every await" is told from outside.
        self.alarm: tuple[int, Callable[[], None]] | None = None
        self._tasks: list[tuple[asyncio.Task[Any], Coroutine[Any, Any, Any]]] = []
        self._waiting: list[asyncio.Future[None]] = []

    def start(self, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `main`, and whatever it starts, inside this gate; a new process has nothing of the one it follows, though
        a step of that one may be what killed it."""
        context = contextvars.Context()
        context.run(_here.set, self)
        return asyncio.get_running_loop().create_task(main, name=self.name, context=context)

    def kill(self) -> None:
        """Not one step more."""
        self.dead = True
        for task, inner in self._tasks:
            task.cancel()
            if inspect.iscoroutine(inner) and inspect.getcoroutinestate(inner) == inspect.CORO_CREATED:
                inner.close()
        self._tasks = []
        self.thaw()

    def freeze(self) -> None:
        """No step until `thaw`."""
        self.frozen = True

    def thaw(self) -> None:
        """Go on, in the order in which tasks had come to the gate."""
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def run(self, inner: Coroutine[Any, Any, Any]) -> Any:
        """The body of each task: `inner`, step by step."""
        return await self._steps(inner)

    @types.coroutine
    def _steps(self, inner: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            while self.frozen:
                waiter = asyncio.get_running_loop().create_future()
                self._waiting.append(waiter)
                try:
                    yield from waiter
                except asyncio.CancelledError as cancelled:  # delivered after the thaw
                    error = cancelled
            self.step_count += 1
            if self.alarm is not None and self.step_count >= self.alarm[0]:
                (_, ring), self.alarm = self.alarm, None
                ring()
                continue
            if self.dead:
                with contextlib.suppress(RuntimeError):  # it awaits while it is closed: a dead process does not
                    inner.close()
                raise asyncio.CancelledError
            try:
                yielded = inner.send(None) if error is None else inner.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            try:
                yield yielded
            except GeneratorExit:
                inner.close()
                raise
            except BaseException as thrown:
                error = thrown


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> asyncio.Task[Any]:
    """Put the tasks of a process behind its gate; others are made as ever."""
    context: contextvars.Context | None = options.get("context")
    gate = _here.get() if context is None else context.get(_here)
    if gate is None:
        return asyncio.Task(coro, loop=loop, **options)
    if gate.dead:
        coro.close()
        return asyncio.Task(asyncio.sleep(0), loop=loop, **options)
    task: asyncio.Task[Any] = asyncio.Task(gate.run(coro), loop=loop, **options)  # type: ignore[arg-type]
    gate._tasks.append((task, coro))  # type: ignore[arg-type]
    return task
