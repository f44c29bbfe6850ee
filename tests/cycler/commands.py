"""Commands as a user types them, and processes that are waited for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dacycle.cycler.cli import app

__all__ = ["dacycle", "until"]


def dacycle(*arguments: str | Path, status: int = 0) -> str:
    """Return what a command prints, in one line; check its exit status, and that no user sees a traceback."""
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ended.exit_code == status, (ended.output, ended.exception)
    assert "Traceback" not in ended.output
    return " ".join(ended.output.split())


def until(what: str, done: Callable[[], Any], folder: Path, limit: float = 400) -> Any:
    """Poll until something comes true, and return it; the limit only keeps a broken run from hanging.

    Args:
        what: what is waited for.
        done: returns it, or something false.
        folder: its logs are shown where it does not come.
        limit: seconds.
    """
    begun = time.monotonic()
    while time.monotonic() - begun < limit:
        if result := done():
            return result
        time.sleep(0.3)
    logs = "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in sorted(folder.rglob("*.log")))
    pytest.fail(f"{what} did not come\n{logs}")
