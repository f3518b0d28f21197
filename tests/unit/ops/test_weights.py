"""The weight of a worker: limits of its container, sources that fail, noise that moves nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rookery.ops import weights
from rookery.ops.settings import Settings
from rookery.ops.weights import WEIGHT_MIN, Band, Node, Weigher
from rookery.schemas.errors import ConfigurationError

COEFFICIENTS = {"cpu": 0.5, "mem": 0.3, "net": 0.2}
GIB = 1 << 30


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_container_with_two_processors_and_a_gibibyte(tmp_path: Path) -> None:
    clock = Clock()
    write(
        tmp_path,
        cpu_DOT_max="200000 100000",
        cpu_DOT_stat="usage_usec 5000000\nuser_usec 1",
        memory_DOT_max=str(GIB),
        memory_DOT_current=str(GIB // 2),
        memory_DOT_stat=f"anon 1\ninactive_file {GIB // 4}",
    )
    node = Node(root=tmp_path, clock=clock)
    clock.now += 10
    write(tmp_path, cpu_DOT_stat="usage_usec 10000000")
    assert node.cpu() == pytest.approx(0.75)  # 5 s of 20
    assert node.mem() == pytest.approx(min(0.75, psutil.virtual_memory().available / GIB))
    clock.now += 10
    assert node.cpu() == pytest.approx(1.0), "since the last call, not since the start"


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    clock = Clock()
    write(
        tmp_path,
        cpu__cpu_DOT_cfs_quota_us="50000",
        cpu__cpu_DOT_cfs_period_us="100000",
        cpuacct__cpuacct_DOT_usage="1000000000",
        memory__memory_DOT_limit_in_bytes=str(GIB),
        memory__memory_DOT_usage_in_bytes=str(GIB // 4),
    )
    node = Node(root=tmp_path, clock=clock)
    clock.now += 4
    write(tmp_path, cpuacct__cpuacct_DOT_usage="2000000000")
    assert node.cpu() == pytest.approx(0.5)  # 1 s of 2
    assert node.mem() == pytest.approx(min(0.75, psutil.virtual_memory().available / GIB))


@pytest.mark.parametrize("limit", ["max", str((1 << 63) - 4096)])
def test_without_limits_the_host_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    write(tmp_path, cpu_DOT_max="max 100000", cpu_DOT_stat="usage_usec 1", memory_DOT_max=limit, memory_DOT_current="7")
    node = Node(root=tmp_path)
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 25.0)
    assert node.cpu() == pytest.approx(0.75)
    host = psutil.virtual_memory()
    assert node.mem() == pytest.approx(host.available / host.total, abs=0.1)


def test_the_network_is_what_its_busier_direction_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock()
    counted = iter([(0, 0), (25_000_000, 1_000_000), (25_000_000, 1_000_000)])
    monkeypatch.setattr(weights, "_net_bytes", lambda: next(counted))
    node = Node(network_mbit=100, root=tmp_path, clock=clock)
    clock.now += 4
    assert node.net() == pytest.approx(0.5)  # 50 of 100 Mbit/s
    clock.now += 4
    assert node.net() == pytest.approx(1.0)


def test_cards_that_do_not_tell_their_speed_are_a_failing_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "_nic_mbit", lambda: 0.0)
    weigher = Weigher(COEFFICIENTS, {"net": Node(root=tmp_path).net}, 10)
    assert weigher.sample(0.0) == 0.5
    assert "ROOKERY_NETWORK_MBIT" in weigher.failures["net"]


def test_each_term_counts_by_its_coefficient_and_stays_in_bounds() -> None:
    sources = {"cpu": lambda: 0.5, "mem": lambda: 7.0, "net": lambda: -1.0}
    weigher = Weigher(COEFFICIENTS, sources, 10)
    assert weigher.sample(0.0) == pytest.approx(0.5 * 0.5 + 0.3)
    assert weigher.terms == {"cpu": 0.5, "mem": 1.0, "net": 0.0}


def test_a_failing_source_counts_as_the_average_of_the_others_and_comes_back() -> None:
    readings: Iterator[float | OSError] = iter([0.2, OSError("gone"), 0.2])

    def net() -> float:
        reading = next(readings)
        if isinstance(reading, OSError):
            raise reading
        return reading

    weigher = Weigher(COEFFICIENTS, {"cpu": lambda: 0.8, "mem": lambda: 0.8, "net": net}, 10)
    weigher.sample(0.0)
    assert weigher.sample(10.0) == pytest.approx(0.8)
    assert weigher.failures == {"net": "gone"}
    assert weigher.sample(20.0) == pytest.approx(0.8 * 0.8 + 0.2 * 0.2)
    assert not weigher.failures


def test_without_any_source_a_worker_is_average() -> None:
    assert Weigher(COEFFICIENTS, {}, 10).sample(0.0) == 0.5


def test_a_full_worker_still_takes_a_little() -> None:
    full = dict.fromkeys(COEFFICIENTS, lambda: 0.0)
    assert Weigher(COEFFICIENTS, full, 10).sample(0.0) == WEIGHT_MIN


def test_a_change_shows_by_two_thirds_within_the_smoothing() -> None:
    level = 1.0
    weigher = Weigher(COEFFICIENTS, dict.fromkeys(COEFFICIENTS, lambda: level), 10)
    weigher.sample(0.0)
    level = 0.0
    found = [weigher.sample(now) for now in (2.0, 4.0, 6.0, 8.0, 10.0)]
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    assert found[-1] == pytest.approx(0.37, abs=0.01)


def noise_moves_nothing(band: Band, seed: int) -> bool:
    chance = random.Random(seed)
    band.look(0.6, 0.0)
    return not any(band.look(0.6 * chance.uniform(0.9, 1.1), 60.0 * n) for n in range(1, 11))


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_a_tenth_over_ten_samples_moves_nothing(seed: int) -> None:
    assert noise_moves_nothing(Band(0.25, 30.0), seed)


def test_without_hysteresis_noise_moves_partitions() -> None:
    assert not any(noise_moves_nothing(Band(0.0, 30.0), seed) for seed in range(20))


def test_a_change_past_the_band_waits_for_the_cool_down() -> None:
    band = Band(0.25, 30.0)
    assert not band.look(1.0, 0.0)
    assert not band.look(0.5, 29.9)
    assert band.value == 1.0
    assert band.look(0.5, 30.0)
    assert band.value == 0.5
    assert not band.look(1.0, 59.0)
    assert band.look(1.0, 61.0)


@pytest.mark.parametrize("wrong", [{"weight_cpu": 0.6}, {"weight_net": 0.0}, {"weight_cpu": 0.0, "weight_mem": 0.0}])
def test_coefficients_that_do_not_add_up_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="must add up to 1"):
        Settings.load(app_id="a", **wrong)
    assert Settings.load(app_id="a", weight_cpu=0.1, weight_mem=0.2, weight_net=0.7).weight_net == 0.7


def test_static_membership_needs_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_ID", raising=False)
    with pytest.raises(ConfigurationError, match="AGENT_ID"):
        Settings.load(app_id="a", static_membership=True)
    monkeypatch.setenv("AGENT_ID", "worker-3")
    assert Settings.load(app_id="a", static_membership=True).agent_id == "worker-3"
