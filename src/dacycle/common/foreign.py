"""Guards for what comes from outside: files, stores and texts that others wrote.

On damaged bytes a library raises whatever its code runs into: a missing key, an index out of range, an error of the C
library below it. A reader that lists the exceptions itself forgets some. Every reader of foreign files uses `reading`,
and every reader of foreign text uses `decode_text` or `read_text`.
"""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacycle.common.errors import DacycleError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["decode_text", "plain_attributes", "read_text", "reading"]

_LONGEST = 300
"""Characters of a library's message that are quoted."""


@contextmanager
def reading(what: object, error: type[DacycleError]) -> Iterator[None]:
    """Turn every exception of the block into `error`; errors of dacycle itself pass unchanged.

    The block holds as little as possible: the calls of the foreign library, not our own work on their results. The
    library's exception stays the cause, with its traceback.

    Args:
        what: what is read, as the message begins: the file, and where known the variable and the time.
        error: the error that is raised, with the message "WHAT: cannot be read: REASON".
    """
    try:
        yield
    except DacycleError:
        raise
    except Exception as problem:
        raise error(f"{what}: cannot be read: {_reason(problem)}") from problem


def _reason(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    text = lines[0][:_LONGEST] if lines else ""
    if isinstance(problem, OSError) and text:
        return text
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def plain_attributes(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return a foreign dataset whose attributes are texts and numbers; an array or a list is written as text.

    So a unit that is an array is compared, refused and named like any other wrong unit.
    """
    dataset = dataset.assign_attrs({name: _plain(value) for name, value in dataset.attrs.items()})
    for variable in dataset.variables.values():
        variable.attrs = {name: _plain(value) for name, value in variable.attrs.items()}
    return dataset


def _plain(value: Any) -> Any:
    if getattr(value, "size", None) == 1:  # an array of one, or a number of numpy
        value = value.item()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str | int | float) else str(value)


def read_text(path: Path, error: type[DacycleError]) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark; without that mark.

    Raises:
        error: the file cannot be read, or is in another encoding; names the line and the remedy.
    """
    with reading(path, error):
        content = path.read_bytes()
    return decode_text(content, path, error)


def decode_text(content: bytes, source: object, error: type[DacycleError], strict: bool = True) -> str:
    """Return bytes as text: UTF-8, or UTF-16 where a byte order mark says so; the mark is left out.

    Args:
        content: the bytes.
        source: where they are from, for messages.
        error: the error that is raised.
        strict: whether other encodings are an error; if not, each byte that is not ASCII becomes a question mark.

    Raises:
        error: the text is in another encoding; names the line and the remedy.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "utf-8"
        content = content.removeprefix(codecs.BOM_UTF8)
        if not strict:
            return content.decode("ascii", "replace").replace("\N{REPLACEMENT CHARACTER}", "?")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(f"{source}:{line}: is not in {encoding.upper()}; save the file as UTF-8") from None
