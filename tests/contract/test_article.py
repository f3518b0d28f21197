"""The unit test of the article that the project comes from: only imports, a marker and its agent are added."""

import pytest

from rookery import Agent, AgentManager, handler


class TestAgent(Agent):
    __test__ = False  # pytest would take the name for a test class
    last_message: str = ""

    @handler("PING")
    async def ping(self, msg: dict[str, str]) -> None:
        self.last_message = msg["type"]


@pytest.mark.rookery
async def test_message_passing() -> None:
    manager = AgentManager()
    sender_id = await manager.spawn_agent(TestAgent)
    receiver_id = await manager.spawn_agent(TestAgent)
    sender = manager.get_agent(sender_id)
    await sender.send(receiver_id, {"type": "PING"})
    receiver = manager.get_agent(receiver_id)
    assert receiver.last_message == "PING"
