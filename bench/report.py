"""The table and the plots of docs/benchmarks.md, from bench/results.json.

python -m bench.report
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from bench.harness import Results, Row
from bench.table import EXPERIMENTS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"
PLOT = DOCS / "benchmarks.png"
RATES_PLOT = DOCS / "benchmarks-rates.png"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
USUAL = {"median", "min", "max", "runs", "foreign_cores_max", "loaded", "load_average", "at"}
"""Figures of every row; whatever else an experiment has recorded stands in the last column."""
GOOD, BAD, PLAIN = "#3b7a57", "#b5482a", "#5b6b7f"


def verdict(row: Row, median: float) -> str:
    """What a median means against the bar and the aim."""
    if row.bar is None:
        return ""
    sign = 1 if row.better == "higher" else -1
    if row.aim is not None and sign * median >= sign * row.aim:
        return "aim"
    return "bar" if sign * median >= sign * row.bar else "missed"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| row | what | median | min to max | bar, aim | met | load | beside | measured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in itertools.chain.from_iterable(experiment.rows for experiment in EXPERIMENTS):
        found = rows.get(row.name, {"missing": "not measured yet"})
        bars = ", ".join(f"{value:g}" for value in (row.bar, row.aim) if value is not None)
        if "median" in found:
            unit = "" if row.unit == "ratio" else f" {row.unit}"
            cells = [
                f"{_number(found['median'])}{unit}",
                f"{_number(found['min'])} to {_number(found['max'])}",
                bars,
                verdict(row, found["median"]),
                f"{found['load_average'][0]:g}" + (" (busy)" if found["loaded"] else ""),
                ", ".join(f"{name} {_number(value)}" for name, value in found.items() if name not in USUAL),
                found["at"].replace("T", " "),
            ]
        else:
            cells = [f"void: {found['void']}" if "void" in found else found["missing"], "", bars, "", "", "", ""]
        lines.append(f"| `{row.name}` | {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def page(results: Results) -> None:
    """Put the table between the marks of the page."""
    facts = results.content.get("machine", {})
    parts = [table(results.rows)]
    if facts:
        parts.append("Machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".")
    for plot, title in ((PLOT, "Medians against their bars"), (RATES_PLOT, "Rates")):
        if plot.exists():
            parts.append(f"![{title}]({plot.name})")
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text("\n\n".join([before + BEGIN, *parts, END + after]))


def plots(results: Results) -> None:
    """Draw the ratios against their bars, and the rates of everything that was run beside us."""
    import matplotlib as mpl

    mpl.use("Agg")
    rows = [row for experiment in EXPERIMENTS for row in experiment.rows if "median" in results.rows.get(row.name, {})]
    ratios = [row for row in rows if row.unit == "ratio" and row.bar is not None]
    if ratios:
        _draw_ratios(ratios, results.rows)
    rates = [row for row in rows if row.unit in {"turns/s", "records/s"}]
    if rates:
        _draw_rates(rates, results.rows)


def _draw_ratios(rows: list[Row], found: dict[str, dict[str, Any]]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.62 * len(rows) + 1.6), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        result = found[row.name]
        assert row.bar is not None
        # Everything over its bar, so that one axis serves all; right is better.
        share = [value / row.bar if row.better == "higher" else row.bar / value for value in result["runs"]]
        middle = result["median"] / row.bar if row.better == "higher" else row.bar / result["median"]
        colour = GOOD if middle >= 1 else BAD
        axes.barh(place, middle, height=0.5, color=colour, alpha=0.85)
        axes.plot(share, [place] * len(share), "|", color="black", markersize=9)
        axes.text(max(middle, *share) * 1.06, place, f"{result['median']:.3g}", va="center", fontsize=9)
        if row.aim is not None:
            aim = row.aim / row.bar if row.better == "higher" else row.bar / row.aim
            axes.plot([aim, aim], [place - 0.3, place + 0.3], color="black", linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    for axis_format in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_format("{x:g}")
    axes.set_xlabel("median against its bar (line at 1; right is better; dotted: aim; strokes: single runs)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(PLOT, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _draw_rates(rows: list[Row], found: dict[str, dict[str, Any]]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.4), layout="constrained")
    rows = sorted(rows, key=lambda row: found[row.name]["median"])
    for place, row in enumerate(rows):
        result = found[row.name]
        spread = [[result["median"] - result["min"]], [result["max"] - result["median"]]]
        colour = GOOD if row.unit == "turns/s" else PLAIN
        axes.barh(place, result["median"], height=0.55, color=colour, alpha=0.85, xerr=spread, capsize=3)
        axes.text(result["max"] * 1.02, place, f"  {result['median']:,.0f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.name.removesuffix("_per_s") for row in rows])
    axes.set_xlabel("messages per second, median, min to max (green: ours)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(RATES_PLOT, dpi=120, metadata={"Software": None})
    plt.close(figure)


def write(results: Results) -> None:
    """Everything that the docs show."""
    plots(results)
    page(results)


if __name__ == "__main__":
    write(Results())
