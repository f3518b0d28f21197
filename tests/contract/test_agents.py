"""What every log under the engine has to give a user: the same scenarios in memory and on a real Kafka."""

from __future__ import annotations

import json
import uuid

import pytest

from rookery import AgentError, AgentManager, AgentStopped, Priority, UnknownAgentType
from tests.contract.fleet import Add, Burst, Counter, Plan, TestAgent, Total
from tests.contract.worlds import World

JSON = ("content-type", b"application/json")


class TestContract:
    """One scenario each; an agent's address is its own, so that scenarios may share an application."""

    async def test_message_passing(self, world: World) -> None:
        """The article's test, with a line that waits for quiet, and state read wherever it lives."""
        manager = AgentManager()
        sender_id = await manager.spawn_agent(TestAgent)
        receiver_id = await manager.spawn_agent(TestAgent)
        sender = manager.get_agent(sender_id)
        await sender.send(receiver_id, {"type": "PING"})
        receiver = manager.get_agent(receiver_id)

        async def quiet() -> bool:
            return bool((await receiver.state()).last_message)

        await world.until(quiet)
        assert (await receiver.state()).last_message == "PING"
        assert (await sender.state()).last_message == ""

    async def test_tell_ask_and_state_of_one_agent_are_in_order(self, world: World) -> None:
        counter = world.manager.get_agent(world.fresh("Counter"))
        for n in range(1, 11):
            await counter.tell(Add(n))
        assert await counter.ask(Add(100), reply_type=Total) == Total(155)
        assert await counter.state() == {"count": 155}

    async def test_spawning_runs_on_spawn_before_it_returns(self, world: World) -> None:
        counter = world.manager.get_agent(await world.manager.spawn_agent(Counter, 40))
        assert (await counter.state()).count == 40
        assert await counter.ask(Add(2), reply_type=Total) == Total(42)

    async def test_a_message_that_comes_before_the_spawn_waits_for_it(self, world: World) -> None:
        spawned = uuid.uuid4().hex
        await world.write(spawned, b'{"type": "Add", "n": 2}', [JSON])
        spawn = [JSON, ("type", b"rookery.spawn")]
        await world.write(spawned, b'{"type": "Counter", "args": [40]}', spawn, Priority.HIGH)
        counter = world.manager.get_agent(spawned)

        async def added() -> bool:
            return bool((await counter.state()).count == 42)

        await world.until(added)

    async def test_a_stopped_agent_refuses(self, world: World) -> None:
        spawned = await world.manager.spawn_agent(Counter, 1)
        await world.manager.stop_agent(spawned)
        with pytest.raises(AgentStopped):
            await world.manager.get_agent(spawned).ask(Add(1))
        (letter,) = await world.dead_letters(spawned, 1)
        assert letter.reason == "agent-stopped"

    async def test_a_handler_that_raises_leaves_a_dead_letter_and_nothing_else(self, world: World) -> None:
        address = world.fresh("Counter")
        counter = world.manager.get_agent(address)
        diary = world.manager.get_agent(f"Diary/{address.partition('/')[2]}")
        await counter.ask(Add(5))
        with pytest.raises(AgentError, match="only upwards"):
            await counter.ask(Add(-1))
        assert await counter.ask(Add(1), reply_type=Total) == Total(6)
        assert (await diary.state()).texts == []
        (letter,) = await world.dead_letters(address, 1)
        assert (letter.reason, letter.type) == ("handler-failed", "Add")
        assert letter.error == "OnlyUpwards: only upwards"
        assert b'{"n":-1}' in letter.value

    async def test_what_nobody_handles_is_refused_by_name(self, world: World) -> None:
        with pytest.raises(AgentError) as unheard:
            await world.manager.get_agent(world.fresh("Counter")).ask({"type": "DANCE"})
        assert unheard.value.error_type == "unknown-handler"
        with pytest.raises(AgentError) as unknown:
            await world.manager.get_agent(world.fresh("Nobody")).ask(Add(1))
        assert unknown.value.error_type == UnknownAgentType.reason

    async def test_what_one_agent_sends_arrives_in_order_in_each_priority(self, world: World) -> None:
        sender, diary = world.manager.get_agent(world.fresh("Counter")), world.manager.get_agent(world.fresh("Diary"))
        for _ in range(3):
            await sender.tell(Burst(diary.id, 20))

        async def all_there() -> bool:
            return len((await diary.state()).texts) == 180

        await world.until(all_there)
        state = await diary.state()
        for priority in Priority:
            texts = [text for text in state.texts if text.startswith(priority.name)]
            assert texts == [f"{priority.name} {i}" for i in range(20)] * 3
        assert set(state.senders) == {sender.id}

    async def test_what_a_client_tells_arrives_in_order_in_each_priority(self, world: World) -> None:
        diary = world.manager.get_agent(world.fresh("Diary"))
        for i in range(15):
            await diary.tell({"type": "note", "text": f"{i}"}, priority=Priority(i % 3))

        async def all_there() -> bool:
            return len((await diary.state()).texts) == 15

        await world.until(all_there)
        texts = (await diary.state()).texts
        for lane in range(3):
            assert [text for text in texts if int(text) % 3 == lane] == [str(i) for i in range(lane, 15, 3)]

    async def test_a_plain_json_client_is_handled_and_answered(self, world: World) -> None:
        address, name = world.fresh("Counter"), f"plain-{uuid.uuid4().hex[:8]}"
        await world.open_replies(name)
        answer_to = [JSON, ("type", b"Add"), ("reply-to", name.encode())]
        await world.write(address, b'{"n": 7}', [*answer_to, ("id", b"same")])
        await world.write(address, b'{"n": 7}', [*answer_to, ("id", b"same")])  # it did not hear the ack
        await world.write(address, b'{"n": "many"}', answer_to)
        first, second = await world.replies(name, 2)
        assert json.loads(first) == {"count": 7}
        assert json.loads(second)["error"] == "bad-payload"
        assert (await world.manager.get_agent(address).state()).count == 7

    async def test_garbage_is_put_aside_and_the_partition_goes_on(self, world: World) -> None:
        address = world.fresh("Counter")
        await world.write(address, b"garbage")
        await world.write(address, b"{", [JSON])
        await world.write(address, b'{"type": "Add", "n": 3}', [JSON])
        letters = await world.dead_letters(address, 2)
        assert [(letter.reason, letter.value) for letter in letters] == [
            ("missing-crc", b"garbage"),
            ("undecodable", b"{"),
        ]
        counter = world.manager.get_agent(address)

        async def added() -> bool:
            return bool((await counter.state()).count == 3)

        await world.until(added)

    async def test_an_agent_asks_others_in_its_turn(self, world: World) -> None:
        counters = [world.fresh("Counter") + f"-{number}" for number in range(5)]
        planner = world.manager.get_agent(world.fresh("Planner"))
        assert await planner.ask(Plan(counters)) == [1] * 5
        assert await planner.ask(Plan(counters[:2])) == [1] * 5 + [2] * 2
        assert (await planner.state()).turns == 2

    async def test_a_turn_that_is_tried_again_repeats_no_step_and_no_ask(self, world: World) -> None:
        counter, planner = world.fresh("Counter"), world.manager.get_agent(world.fresh("Planner"))
        assert await planner.ask(Plan([counter], steps=3, fail=3)) == [1]
        state = await planner.state()
        assert (state.turns, len(state.steps)) == (1, 3)
        keys = [step.split()[0] for step in state.steps]
        assert len(set(keys)) == 3
        assert (await world.manager.get_agent(counter).state()).count == 1

    async def test_the_last_attempt_leaves_a_dead_letter_and_what_was_asked_stays_asked(self, world: World) -> None:
        counter, address = world.fresh("Counter"), world.fresh("Planner")
        with pytest.raises(AgentError, match="attempt 4 fails"):
            await world.manager.get_agent(address).ask(Plan([counter], fail=5))
        (letter,) = await world.dead_letters(address, 1)
        assert (letter.reason, letter.attempts) == ("handler-failed", 5)
        assert "ConnectionError" in letter.traceback
        assert (await world.manager.get_agent(counter).state()).count == 1
        assert (await world.manager.get_agent(address).state()).answers == []

    async def test_an_agent_that_asks_itself_is_told_so(self, world: World) -> None:
        with pytest.raises(AgentError) as refused:
            await world.manager.get_agent(world.fresh("Planner")).ask({"type": "ask-yourself"})
        assert refused.value.error_type == "ask-cycle"

    async def test_a_paused_agent_keeps_its_messages_until_it_is_resumed(self, world: World) -> None:
        address = world.fresh("Planner")
        planner = world.manager.get_agent(address)
        await world.manager.pause_agent(address)
        await planner.tell(Plan([]))
        await planner.tell(Plan([], steps=1))
        await world.manager.resume_agent(address)

        async def went_on() -> bool:
            return bool((await planner.state()).turns == 2)

        await world.until(went_on)
        assert len((await planner.state()).steps) == 1
