"""The report's drawings as inline SVG. Drawn with Figure objects: no pyplot, no window, nothing global left changed.

Colours and fonts come from the page: every colour here is a stand-in that becomes a CSS variable of the template,
so the same drawing suits light and dark.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from fastsynth.report.summary import Row, difference_tone, points

INK, FAINT = "#010101", "#020202"
TONES = {"helps": "#030303", "same": "#040404", "hurts": "#050505"}
SERIES = ("#060606", "#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b")
VARIABLES = {
    INK: "--ink",
    FAINT: "--line",
    **{color: f"--{tone}" for tone, color in TONES.items()},
    **{color: f"--series-{number}" for number, color in enumerate(SERIES)},
}
"""Stand-in colour → CSS variable."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay text: the page's own font, selectable, small
    "svg.hashsalt": "fastsynth",  # same drawing, same bytes
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 10.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Points = Sequence[tuple[float, float]]


def forest(differences: Sequence[tuple[str, Row]], *, title: str) -> str:
    """Differences with their intervals around zero.

    differences: (label, entry of `differences` in metrics.json); mean, low and high are fractions of 1, drawn as
        percentage points. Returns an `<svg>` element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.9 + 0.36 * len(differences)), layout="constrained")
        axes = figure.subplots()
        for height, (_, row) in enumerate(differences):
            low, mean, high = (100 * row[key] for key in ("low", "mean", "high"))
            color = TONES[difference_tone(row)]
            axes.plot([low, high], [height, height], color=color, linewidth=2.6, solid_capstyle="round")
            axes.plot([mean], [height], "o", color=color, markersize=8)
            numbers = f"{points(row['mean'])}  ({points(row['low'])} to {points(row['high'])})"
            axes.annotate(numbers, (1.02, height), xycoords=("axes fraction", "data"), va="center")
        axes.axvline(0, color=INK, linewidth=1)
        reach = 1.1 * max(100 * max(abs(row["low"]), abs(row["high"])) for _, row in differences)
        axes.set_xlim(-reach or -1, reach or 1)  # all may be zero
        axes.set_ylim(len(differences) - 0.5, -0.5)
        axes.set_yticks(range(len(differences)), [label for label, _ in differences])
        axes.set_xlabel(title)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        return _svg(figure, title)


def curve_plot(groups: Mapping[str, Sequence[Points]], *, title: str, along: str) -> str:
    """Curves of a training, one colour per group; a group's curves are its seeds.

    groups: label → curves of (position, value). along: what the positions count. Returns an `<svg>` element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0 + 0.2 * math.ceil(len(groups) / 2)), layout="constrained")
        axes = figure.subplots()
        for number, (label, curves) in enumerate(groups.items()):
            _draw_group(axes, curves, label=label, color=SERIES[number % len(SERIES)])
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel(along)
        axes.grid(color=FAINT, linewidth=0.7)
        axes.margins(x=0.01)
        if len(groups) > 1:
            figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9.5, handlelength=1.2)
        return _svg(figure, title)


def size_plot(areas: Mapping[str, np.ndarray], *, title: str, unit: str) -> str:
    """Cumulative shares of areas on a logarithmic axis, one colour each.

    areas: label → (n,) positive values in `unit`. Returns an `<svg>` element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        for number, (label, values) in enumerate(areas.items()):
            ordered = np.sort(values)
            shares = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
            # from zero at the smallest, so that a single value shows as a line too
            axes.step(
                [ordered[0], *ordered], [0, *shares], where="post", color=SERIES[number], linewidth=2, label=label
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel(f"area, {unit}")
        axes.set_ylabel("% up to this area")
        axes.grid(color=FAINT, linewidth=0.7)
        figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9.5, handlelength=1.2)
        return _svg(figure, title)


def _draw_group(axes: Axes, curves: Sequence[Points], *, label: str, color: str) -> None:
    """The group's mean as a line, its seeds as thin ones behind it."""
    if len(curves) > 1:
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=color, linewidth=0.8, alpha=0.45)
    axes.plot(*zip(*_mean_curve(curves), strict=True), color=color, linewidth=2, label=label)


def _mean_curve(curves: Sequence[Points]) -> Points:
    """The mean at the positions that all curves have."""
    tables = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return [(position, sum(table[position] for table in tables) / len(tables)) for position in shared]


def _svg(figure: Figure, title: str) -> str:
    """The figure as an element for a page: no XML header, no addresses, fonts and colours left to the page."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",  # would apply to the whole page
        r"\sxmlns(:\w+)?=\"[^\"]*\"",
        r"\s(width|height)=\"[\d.]+pt\"",
        r"\sid=\"[a-z0-9.]+_\d+\"",  # figure_1, text_3, …: the same in every drawing of the page
        r"\sfont-family: [^;]*;",
    ):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
