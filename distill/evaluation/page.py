"""A report in, one self-contained HTML page out; everything a model or a user wrote is escaped."""

from __future__ import annotations

from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distill.evaluation import wording
from distill.evaluation.plots import COLORS, draw_accuracy, draw_training, svg_for_page
from distill.evaluation.summary import Report


def render_page(report: Report) -> str:
    """The page; it loads nothing and runs nothing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        report=report,
        charts=_charts(report),
        training=_training(report),
        colors=COLORS,
        wording=wording,
        largest=max((stage.rows or 0 for stage in report.funnel), default=0),
        config_text=yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True),
    )


def _charts(report: Report) -> dict[str, Markup]:
    """Test set -> chart. Markup is safe: matplotlib escapes what it writes, and nothing a model wrote is drawn."""
    charts: dict[str, Markup] = {}
    for result in report.results:
        name = result.test_set
        svg = svg_for_page(draw_accuracy(result), name=f"accuracy-{name}", label=f"Accuracy on {name}")
        charts[name] = Markup(svg)
    return charts


def _training(report: Report) -> Markup | None:
    if not report.curves:
        return None
    return Markup(svg_for_page(draw_training(report.curves), name="training", label="Loss against training step"))
