"""Shared by the tests of trainings: recipes as files, and an action on every log record."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dacycle.common.configuration import write_yaml

SOURCES = [{"source": "stations"}, {"source": "sondes"}, {"source": "olr"}]


def write_recipe(path: Path, entries: dict[str, Any], **changes: Any) -> Path:
    """Write a recipe with some entries changed; `None` leaves an entry out."""
    content = {key: value for key, value in {**entries, **changes}.items() if value is not None}
    path.write_text(write_yaml(content))
    return path


@contextmanager
def on_records(act: Callable[[str], None]) -> Iterator[None]:
    """Call `act` with the message of every record that dacycle logs inside the block; it may raise."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            act(record.getMessage())

    logger, handler = logging.getLogger("dacycle"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
