"""Logging: one logger a module, records that know their experiment and cycle, lines for people or for machines.

Modules log with `logging.getLogger(__name__)`; the command line and the flows call `configure` once. `DACYCLE_LOG=json`
writes one JSON object a line.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from rich.console import Console
from rich.logging import RichHandler

__all__ = ["configure", "context"]

ROOT = "dacycle"

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


def configure(style: Literal["human", "json"] = "human", level: int = logging.INFO) -> None:
    """Write the records of all of dacycle's loggers to standard error; called again, replace the handler."""
    logger = logging.getLogger(ROOT)
    for handler in [each for each in logger.handlers if each.name == ROOT]:
        logger.removeHandler(handler)
    handler = _handler(style)
    handler.addFilter(_add_context)
    handler.set_name(ROOT)
    logger.addHandler(handler)
    logger.setLevel(level)


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
