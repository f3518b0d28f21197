"""Commands of an application beside Faust's own: `faust -A <module> topics|agents|send|ask`.

`topics` shows, creates or checks the topics; `agents` lists agent types and the backlog of the fleet; `send` and `ask`
write a JSON message to an agent. Faust has commands called `agents` and `send`: these take their place.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import click
from faust.cli.base import AppCommand, argument, option

from rookery.agents import AgentHandle
from rookery.schemas.envelope import Priority
from rookery.schemas.errors import RookeryError
from rookery.streams.client import Client
from rookery.streams.kafka import acls
from rookery.streams.kafka import topics as admin
from rookery.streams.kafka.accept import accept
from rookery.streams.kafka.members import members
from rookery.streams.kafka.worker import Ending

if TYPE_CHECKING:
    from rookery.streams.kafka.app import App


class Command(AppCommand):
    """A command of a Rookery application: typed errors become one line and exit code 1."""

    abstract = True
    _failed = False

    @property
    def rookery(self) -> App:
        """The application that `-A` names."""
        return cast("App", self.app)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; Faust calls this."""
        try:
            return await super().execute(*args, **kwargs)
        except (RookeryError, click.ClickException) as error:
            # Raised further, it would reach the user as a traceback of Faust's services.
            click.echo(f"Error: {error.message if isinstance(error, click.ClickException) else error}", err=True)
            self._failed = True

    def run_using_worker(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command to its end; raises SystemExit, with 1 after an error."""
        try:
            super().run_using_worker(*args, **kwargs)
        except SystemExit:
            if self._failed:
                raise SystemExit(1) from None
            raise

    @property
    def _Worker(self) -> type[Ending]:  # noqa: N802 - Faust's name
        return Ending

    def client(self) -> Client:
        """A client of the application."""
        return Client(self.rookery.settings.app_id, settings=self.rookery.settings)


class topics(Command):  # noqa: N801 - the name of the command
    """Show, create or check the topics of the application; a wrong one is explained with the command that mends it.

    `accept` puts this program and the topics as they are now in the place of what the application remembers; stop all
    workers before. `acls` prints what a Kafka with an authorizer has to allow, as commands or JSON, and asks no server.
    """

    options = [  # noqa: RUF012
        argument("action", type=click.Choice(["show", "create", "check", "accept", "acls"]), default="show"),
        option("--role", type=click.Choice(acls.ROLES), default="worker", help="whose rights `acls` prints"),
        option("--principal", default="", help="to whom `acls` gives them; default: User:<broker_user, or the role>"),
        option("--json", "as_json", is_flag=True, help="print `acls` as JSON"),
    ]

    async def run(self, action: str, role: str, principal: str, as_json: bool) -> None:
        """Do what `action` says; exits with 1 when a topic is missing or wrong."""
        settings, kafka = self.rookery.settings, self.rookery.client_kwargs
        if action == "acls":
            wanted = acls.needed(settings.app_id, role, settings.nats_out)
            principal = principal or f"User:{settings.broker_user or role}"
            forms = [acl.form(principal) for acl in wanted]
            self.say(json.dumps(forms, indent=2) if as_json else acls.commands(wanted, settings.broker, principal))
            return
        if action == "accept":
            self.say(await accept(self.rookery))
            return
        if action != "show":
            made = await admin.ensure(settings, kafka, make=action == "create")
            self.say(f"made {', '.join(made)}" if made else "all topics are as they have to be")
            return
        specs = admin.specs(settings)
        async with admin.admin(kafka) as client:
            found = await admin.inspect(client, specs)
        rows = [
            [
                spec.name,
                str(spec.partitions),
                "; ".join(map(str, admin.problems(spec, found[spec.name], settings.broker))),
            ]
            for spec in specs
        ]
        self.say(self.tabulate(rows, headers=["topic", "partitions", "wrong"], title="Topics"))


class agents(Command):  # noqa: N801
    """List agent types, the workers with their partitions and live agents, and the backlog by priority."""

    async def run(self) -> None:
        """Print three tables."""
        registry = self.rookery.registry
        rows = [[name, registry.get(name).cls.__module__] for name in registry.names()]
        self.say(self.tabulate(rows, headers=["type", "module"], title="Agent types"))
        settings, inbox = self.rookery.settings, self.rookery.topic_names.inboxes[0]
        async with admin.admin(self.rookery.client_kwargs) as kafka:
            token = "" if settings.web_token is None else settings.web_token.get_secret_value()
            workers = await members(kafka, settings.app_id, inbox, token)
        rows = [
            [
                worker.url or worker.host,
                " ".join(map(str, worker.partitions)) or "none",
                "not readable from here" if worker.live is None else _counts(worker.live),
            ]
            for worker in workers
        ]
        self.say(self.tabulate(rows, headers=["worker", "partitions", "live agents"], title="Workers"))
        async with self.client() as client:
            backlog, handled = await client.backlog(), await client.handled()
        waiting = [[priority.name, str(count)] for priority, count in backlog.items()]
        self.say(self.tabulate(waiting, headers=["priority", "waiting"], title=f"Messages, {handled:,} handled"))


def _counts(live: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in live.items() if count) or "none"


class _Talking(Command):
    """What `send` and `ask` share."""

    abstract = True
    options = [  # noqa: RUF012
        argument("address"),
        argument("message"),
        option("--type", "message_type", default="", help="name of the message; default: its member `type`"),
        option("--priority", type=click.Choice(["low", "normal", "high"]), default="normal"),
    ]

    def message(self, text: str, message_type: str) -> dict[str, Any]:
        """The JSON object to send; its `type` selects the handler."""
        try:
            message = json.loads(text)
        except ValueError as error:
            raise click.ClickException(f"the message is no JSON: {error}") from None
        if not isinstance(message, dict):
            raise click.ClickException('the message must be a JSON object, such as \'{"type": "PING"}\'')
        return {**message, "type": message_type} if message_type else message

    def agent(self, client: Client, address: str) -> AgentHandle:
        """The agent to talk to."""
        return client.get_agent(address)


class send(_Talking):  # noqa: N801
    """Send a JSON message to an agent."""

    async def run(self, address: str, message: str, message_type: str, priority: str) -> None:
        """Return once the broker has the message."""
        async with self.client() as client:
            body = self.message(message, message_type)
            await self.agent(client, address).tell(body, priority=Priority[priority.upper()])
        self.say("sent")


class ask(_Talking):  # noqa: N801
    """Send a JSON message to an agent and print its reply as JSON."""

    options = [*_Talking.options, option("--timeout", type=float, default=30.0, help="seconds")]  # noqa: RUF012

    async def run(self, address: str, message: str, message_type: str, priority: str, timeout: float) -> None:
        """Print the reply; exits with 1 on a typed error."""
        async with self.client() as client:
            body = self.message(message, message_type)
            reply = await self.agent(client, address).ask(body, timeout, priority=Priority[priority.upper()])
        self.say(json.dumps(reply))
