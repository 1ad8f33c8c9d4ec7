"""Rates and training curves in, SVG text out: one drawing both as a file and inside a page that knows dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from distill.evaluation.accuracy import TestSetResult, split_model_name

# Okabe and Ito's palette, told apart in every kind of colour blindness, and a grey.
COLORS = {"base": "#8f959d", "vanilla": "#56b4e9", "augmented": "#0072b2", "teacher": "#e69f00"}

# Inside a page these become the page's own colours; nothing else is drawn in them.
_PAPER, _INK, _MUTED, _LINE = "#ffffff", "#1c1f23", "#5b626b", "#d9dce1"
_PAGE_COLORS = {_PAPER: "transparent", _INK: "var(--ink)", _MUTED: "var(--muted)", _LINE: "var(--line)"}

_FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
_SIZE_INCHES = (5.4, 3.3)  # with 11 point text this reads across a phone and in one column of a wide page
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and it can be searched and read aloud
    "font.size": 11,
    "figure.subplot.left": 0.11,
    "figure.subplot.right": 0.99,
    "figure.subplot.bottom": 0.15,
    "figure.subplot.top": 0.9,
    "text.color": _INK,
    "figure.facecolor": _PAPER,
    "axes.facecolor": "none",
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "xtick.color": _INK,
    "ytick.color": _MUTED,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.handlelength": 0.9,
    "legend.columnspacing": 1.3,
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One trained student: (step, loss) while training and on validation, losses in nats per trained token."""

    name: str
    loss: tuple[tuple[int, float], ...]
    validation_loss: tuple[tuple[int, float], ...]


def draw_accuracy(result: TestSetResult) -> str:
    """Bars per category and model with their intervals as whiskers, the rate above each."""
    models = list(result.accuracy)
    categories = list(result.accuracy[models[0]])
    width = 0.86 / len(models)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES)
        axes = figure.subplots()
        for index, model in enumerate(models):
            for place, category in enumerate(categories):
                rate = result.accuracy[model][category]
                center = place - 0.43 + width * (index + 0.5)
                whisker = ([rate.rate - rate.low], [rate.high - rate.rate])
                label = model if place == 0 else None
                axes.bar(center, rate.rate, width=width * 0.9, color=COLORS[model], label=label)
                axes.errorbar(center, rate.rate, yerr=whisker, ecolor=_INK, elinewidth=1.1, capsize=2.5)
                size = 9.5 if len(models) * len(categories) <= 8 else 7
                axes.text(center, rate.high + 0.015, f"{rate.rate:.2f}", ha="center", fontsize=size)
        axes.set_xticks(range(len(categories)), [category.replace("_", "\n") for category in categories])
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.55, len(categories) - 0.45)
        axes.set_ylim(0, 1.08)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(models))
        return _svg(figure, salt=f"accuracy {result.test_set}")


def draw_training(curves: Sequence[Curve]) -> str:
    """Loss against step: a thin line for training, dashes with dots for validation; the seeds of a student look alike."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES)
        axes = figure.subplots()
        drawn: set[str] = set()
        for curve in curves:
            student = split_model_name(curve.name)[0]
            color = COLORS[student]
            labels = (None, None) if student in drawn else (f"{student}, training", f"{student}, validation")
            drawn.add(student)
            axes.plot(*_columns(curve.loss), color=color, linewidth=1.0, alpha=0.75, label=labels[0])
            if curve.validation_loss:
                points = _columns(curve.validation_loss)
                axes.plot(*points, "o--", color=color, linewidth=1.6, markersize=4, label=labels[1])
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per trained token)")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right", handlelength=2, fontsize=9.5)
        return _svg(figure, salt="training")


def svg_for_page(svg: str, *, name: str) -> str:
    """An SVG document as an element of an HTML page.

    Without prolog and fixed size, in the page's colours, and with ids that begin with `name`, so that several drawings
    fit into one page.
    """
    element = svg[svg.index("<svg") :].strip()
    element = re.sub(r' width="[^"]*" height="[^"]*"', "", element, count=1)
    element = element.replace("<svg ", '<svg role="img" ', 1)
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(href="|url\()#', rf"\1#{name}-", element)
    for color, page_color in _PAGE_COLORS.items():
        element = element.replace(color, page_color)
    return element


def _svg(figure: Figure, *, salt: str) -> str:
    """The drawing as SVG, equal for equal numbers: ids are hashed with `salt` and no date is written."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return re.sub(r"font-family: [^;\"]*", f"font-family: {_FONTS}", text.getvalue())


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]
