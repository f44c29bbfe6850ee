"""Logging: one logger a module, records that know their experiment and cycle, lines for people or for machines.

Modules log with `logging.getLogger(__name__)`; the command line and the flows call `configure` once, and processes that
they start what `as_here` returned. `DACYCLE_LOG=json` writes one JSON object a line.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from rich.console import Console
from rich.logging import RichHandler

__all__ = ["as_here", "configure", "context"]

ROOT = "dacycle"

Style = Literal["human", "json"]

_experiment: ContextVar[str] = ContextVar("experiment", default="")
_cycle: ContextVar[str] = ContextVar("cycle", default="")


@contextmanager
def context(experiment: str | None = None, cycle: str | None = None) -> Iterator[None]:
    """Give every record inside the block an experiment, a cycle (`20240104T00`), or both."""
    given = [(variable, value) for variable, value in ((_experiment, experiment), (_cycle, cycle)) if value is not None]
    tokens = [(variable, variable.set(value)) for variable, value in given]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def configure(style: Style = "human", level: int = logging.INFO) -> None:
    """Write the records of all of dacycle's loggers to standard error; called again, replace the handler."""
    logger = logging.getLogger(ROOT)
    for handler in [each for each in logger.handlers if each.name == ROOT]:
        logger.removeHandler(handler)
    handler = _handler(style)
    handler.addFilter(_add_context)
    handler.set_name(ROOT)
    logger.addHandler(handler)
    logger.setLevel(level)


def as_here() -> Callable[[], None]:
    """Return a call that lets another process, to which it is sent, write its records as this one does."""
    formatters = [handler.formatter for handler in logging.getLogger(ROOT).handlers if handler.name == ROOT]
    styles: list[Style] = ["json" if isinstance(formatter, _Json) else "human" for formatter in formatters]
    ours = {name: each for name, each in logging.root.manager.loggerDict.items() if name.partition(".")[0] == ROOT}
    levels = {name: each.level for name, each in ours.items() if isinstance(each, logging.Logger)}
    return partial(_configure_process, styles[0] if styles else None, levels)


def _configure_process(style: Style | None, levels: Mapping[str, int]) -> None:
    """Configure a process that works for another one, as that one is; without a style it has no handler."""
    if style is not None:
        configure(style)
        logging.getLogger(ROOT).propagate = False  # Prefect's handler in its workers would repeat them
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _handler(style: str) -> logging.Handler:
    if style == "human" and sys.stderr.isatty():
        handler: logging.Handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=False)
        handler.setFormatter(logging.Formatter("%(where)s%(message)s"))
        return handler
    handler = _StandardError()
    handler.setFormatter(_Json() if style == "json" else _Line("%(where)s%(message)s"))
    return handler


def _add_context(record: logging.LogRecord) -> bool:
    names = {"experiment": _experiment.get(), "cycle": _cycle.get()}
    where = " ".join(name for name in names.values() if name)
    vars(record).update(names, where=f"{where}: " if where else "")
    return True


class _StandardError(logging.StreamHandler):
    """Write to what `sys.stderr` is at the time of a record: tests and progress displays replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Line(logging.Formatter):
    """One line for people; the level is named from warnings on."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text


class _Json(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, experiment, cycle, message, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "experiment": getattr(record, "experiment", ""),
            "cycle": getattr(record, "cycle", ""),
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
