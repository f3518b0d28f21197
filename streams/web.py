"""The pages of a worker: /metrics for Prometheus, /livez and /readyz for whoever restarts it and sends it work.

None of them shows a message or a state; ids of agents appear on /metrics, as many as `metrics_agents_max` allows. With
a `web_token` every page but the two for health needs it, also those that an application adds.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Final

import faust
from aiohttp import web
from faust.web import Request, Response, View

from rookery.ops.hot import Load
from rookery.ops.metrics import Metrics
from rookery.streams.engine.engine import Engine

# Faust's own pages show table contents, the addresses of all workers and its inner structure to anybody who asks.
SETTINGS: Final[dict[str, Any]] = {
    "web_graph_enabled": False,
    "web_metrics_enabled": False,
    "web_router_enabled": False,
    "web_stats_enabled": False,
    "web_tables_enabled": False,
    "web_in_thread": False,  # pages read the engine, which lives on the app's event loop
}
"""What an app has to be made with for these pages to be the only ones, besides Faust's greeting at `/`."""


OPEN: Final = frozenset({"/livez", "/readyz"})
"""Pages that need no token: whoever restarts a process has none."""


def guard(token: str) -> dict[str, Any]:
    """Faust's settings that let a request pass if it shows the token as `Authorization: Bearer <token>`, else 401."""
    wanted = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        shown = request.headers.get("Authorization", "").encode(errors="replace")
        if request.path not in OPEN and not hmac.compare_digest(shown, wanted):
            raise web.HTTPUnauthorized(
                headers={"WWW-Authenticate": "Bearer"}, text="the web_token is missing or wrong\n"
            )
        return await handler(request)

    return {"web_application_options": {"middlewares": [check]}}


def add_pages(
    app: faust.App,
    metrics: Metrics,
    engine: Callable[[], Engine | None],
    stuck: Callable[[], str] = lambda: "",
    load: Load | None = None,
) -> None:
    """Add the four pages; `engine()` gives the running engine, or None before it is made; `stuck()` says that the
    event loop was stuck lately.

    Call it before the app's web server starts; it needs the app's settings to be complete.
    """

    async def metrics_page(view: View, request: Request) -> Response:
        """All metrics in Prometheus' text format."""
        body, content_type = metrics.exposition()
        # Not as content_type: aiohttp refuses one with parameters there.
        return view.bytes(body, headers={"Content-Type": content_type})

    async def livez(view: View, request: Request) -> Response:
        """200 while the event loop answers and the engine has not given up; else 503, and the process may be killed."""
        return _answer(view, trouble(engine()))

    async def readyz(view: View, request: Request) -> Response:
        """200 once partitions are assigned and all of them recovered, and the loop keeps time; else 503."""
        return _answer(view, unready(engine()) or stuck())

    async def load_page(view: View, request: Request) -> Response:
        """The hottest agents and partitions of this worker, their shares of it, and what a move would bring."""
        return view.json({} if load is None else load.statistics())

    pages = (("/metrics", metrics_page), ("/livez", livez), ("/readyz", readyz), ("/load", load_page))
    for path, handler in pages:
        app.page(path, name=path[1:])(handler)


def trouble(engine: Engine | None) -> str:
    """Why the worker can't go on; empty while it can, also before its engine is made."""
    if engine is not None and engine.failed.done():
        return "the engine failed: see the log"
    return ""


def unready(engine: Engine | None) -> str:
    """Why the worker does not handle all that is assigned to it; empty when it does.

    A worker without partitions is ready if the group told it so: there may be more workers than partitions.
    """
    if engine is None:
        return "not started"
    if why := trouble(engine):
        return why
    statistics = engine.statistics()
    partitions = statistics["partitions"]
    if not partitions and not statistics.get("rebalances"):
        return "no partitions assigned yet"
    waiting = [str(number) for number, partition in partitions.items() if partition["phase"] != "running"]
    return f"not recovered yet: {len(waiting)} of {len(partitions)} partitions" if waiting else ""


def _answer(view: View, why_not: str) -> Response:
    return view.text(f"{why_not or 'ok'}\n", status=503 if why_not else 200, headers={"Cache-Control": "no-store"})
