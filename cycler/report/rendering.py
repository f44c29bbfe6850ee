"""Fill the templates of pages: one look for reports, comparisons and the operator's page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from dacycle.cycler.report import maps, style, tables
from dacycle.forecast_adapter.intervals import FEWEST_EFFECTIVE

__all__ = ["environment", "render"]


def render(template: str, **context: Any) -> str:
    """Fill one of the packaged templates; a name that the context lacks is an error."""
    return environment(("dacycle.cycler.report",)).get_template(template).render(made=_now(), **context)


@lru_cache
def environment(packages: Sequence[str]) -> Environment:
    """Return an environment for the templates of some packages, the first that has a template first."""
    folders = [files(package) / "templates" for package in packages]

    def load(name: str) -> str | None:
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        return None if found is None else found.read_text()

    made = Environment(
        loader=FunctionLoader(load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(number=tables.number, percent=tables.percent)
    made.globals.update(
        statuses={name: style.slug(name) for name in style.STATUSES},
        figure_css=Markup(style.figure_css()),
        coasts=maps.coast_definition,
        fewest_effective=round(FEWEST_EFFECTIVE),
        made="",
    )
    return made


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
