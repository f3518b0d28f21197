"""The orders example: paid once, whatever fails and whoever dies."""

from __future__ import annotations

import asyncio

import pytest

from examples.orders.agents import Gateway, Order, Place, Stock, Supply
from rookery.testing import Kit
from tests.unit.engine.harness import Cluster, addresses, virtual


@pytest.fixture(autouse=True)
def _fresh_gateway() -> None:
    Gateway.charges.clear()
    Gateway.calls = Gateway.outages = 0


@virtual
async def test_orders_are_paid_sold_out_or_declined() -> None:
    async with Kit(Order, Stock) as kit:
        stock = kit.manager.get_agent("Stock/tea")
        await stock.tell(Supply(3))
        order = kit.manager.get_agent
        assert await order("Order/1").ask(Place("tea", 2, 500, "good")) == "paid"
        assert await order("Order/2").ask(Place("tea", 2, 500, "good")) == "sold out"
        assert await order("Order/3").ask(Place("tea", 1, 500, "declined")) == "declined"
        assert await order("Order/4").ask(Place("tea", 1, 300, "good")) == "paid"
        assert stock.there == 0
        assert sorted(Gateway.charges.values()) == [300, 500]


@virtual
async def test_a_gateway_that_fails_longer_than_a_step_is_asked_again_by_the_next_turn_under_the_same_key() -> None:
    Gateway.outages = 7
    async with Kit(Order, Stock) as kit:
        await kit.manager.get_agent("Stock/tea").tell(Supply(3))
        assert await kit.manager.get_agent("Order/1").ask(Place("tea", 2, 500, "good")) == "paid"
        assert Gateway.calls == 8
        assert list(Gateway.charges.values()) == [500]
        assert kit.manager.get_agent("Stock/tea").there == 1  # reserved once


@pytest.mark.parametrize("moment", [0.002 * n for n in range(1, 40)])
def test_a_crash_at_any_moment_charges_and_reserves_once(moment: float) -> None:
    @virtual
    async def scenario() -> None:
        async with Cluster(Order, Stock) as cluster:
            (order,), (stock,) = addresses("Order", 0, 1), addresses("Stock", 1, 1)
            cluster.post(stock, Supply(5))
            cluster.post(order, Place(stock.partition("/")[2], 2, 500, "good"))
            await asyncio.sleep(moment)
            await cluster.kill(0)
            await cluster.assign([1, 1, 1, 1], untold=[0])
            await cluster.settle()
            assert (cluster.state(order).status, cluster.state(stock).there) == ("paid", 3)
            assert list(Gateway.charges.values()) == [500]

    scenario()
