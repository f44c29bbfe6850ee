"""What commands print: tables of 80 columns, progress on standard error, or the same content as JSON.

A command computes its content once, as plain data, and shows it as a table or, with `--json`, through `print_json`.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table

__all__ = ["AsJson", "console", "new_table", "print_card", "print_json", "progress_bar", "shown", "waiting"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: numbers unrounded, times in ISO 8601 (UTC).")]

UNLIMITED = 10_000
"""Columns of an output that is no terminal: nothing is wrapped or cut there."""

Item = TypeVar("Item")


class _Screen(Console):
    """Print to standard output, as wide as the terminal; anywhere else as wide as the content, or COLUMNS."""

    @property
    def size(self) -> ConsoleDimensions:
        """Return columns and rows."""
        if self.is_terminal or os.environ.get("COLUMNS", "").isdigit():
            return super().size
        return ConsoleDimensions(UNLIMITED, 25)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self.width, self.height = new_size


class _Table(Table):
    """A table whose columns stand closer where it would else be too wide."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if super().__rich_measure__(console, options.update(width=UNLIMITED)).maximum > options.max_width:
            self.padding = 0
        yield from super().__rich_console__(console, options)
        yield Segment.line()


console = _Screen()
_progress = Console(stderr=True)


def print_json(content: object) -> None:
    """Print content as JSON on standard output: times in ISO 8601, UTC; durations in s; null where not finite."""
    print(json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False), file=sys.stdout)


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, np.datetime64 | datetime):  # among them pandas' Timestamp and NaT
        time = value if isinstance(value, datetime) else value.astype("datetime64[s]").item()
        return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time is not None and time == time else None
    if hasattr(value, "to_dict"):  # a DataFrame
        return _plain(value.to_dict("records"))
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return [_plain(item) for item in value]


def new_table(*columns: str, numbers: Iterable[str] = (), title: str | None = None) -> Table:
    """Return a table that fits 80 columns: `columns` of text, which wrap, then columns of numbers, which do not.

    A text that is too long for its column is continued in the next line; no letter is left out.
    """
    table = _Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in columns:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True, overflow="fold")
    return table


def print_card(text: str) -> None:
    """Print a text in Markdown: set for a terminal, elsewhere as it is."""
    if console.width == UNLIMITED:
        print(text)
    else:
        from rich.markdown import Markdown  # as long to import as the rest of this module

        console.print(Markdown(text))


def progress_bar() -> Progress:
    """Return a progress display with description, bar, count and time left; it shows nothing but in a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_progress,
        transient=True,
        disable=not _progress.is_terminal,
    )


def shown(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield the items, with a progress bar that goes when they are done."""
    with progress_bar() as bar:
        yield from bar.track(items, total, description=description)


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """Show in a terminal what is being done."""
    if not _progress.is_terminal:
        yield
        return
    with _progress.status(description):
        yield
