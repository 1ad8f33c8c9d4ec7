"""A report in, one self-contained HTML page out; everything a model or a user wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distill.evaluation import wording
from distill.evaluation.plots import COLORS, svg_for_page
from distill.evaluation.summary import Report, place_text


def render_page(report: Report, drawings: Mapping[str, str]) -> str:
    """The page; it loads nothing and runs nothing.

    `drawings` are SVG documents by name: `accuracy_TEST_SET` for each test set and, where something was trained, `training`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        report=report,
        drawings={name: _for_page(name, svg) for name, svg in drawings.items()},
        colors=COLORS,
        wording=wording,
        place_text=place_text,
        # Predictions are rows times models, no part of the funnel.
        largest=max((stage.rows or 0 for stage in report.funnel if stage.stage != "evaluate"), default=0),
        config_text=yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True),
    )


def _for_page(name: str, svg: str) -> Markup:
    """Markup is safe: matplotlib escapes what it writes, and nothing a model wrote is drawn."""
    return Markup(svg_for_page(svg, name=name))
