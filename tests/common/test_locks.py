"""Locks: the file says who holds it."""

import os
import sys
from pathlib import Path

import pytest

from dacycle.common.errors import DacycleError
from dacycle.common.locks import locked


def test_the_holder_is_named_by_its_command_without_what_may_be_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["live.yaml", "--database", "postgresql://me:secret@host/name"]
    monkeypatch.setattr(sys, "argv", ["/opt/dacycle/.venv/bin/dacycle", "up", *given])
    with (
        locked(tmp_path / "up.lock", "it", DacycleError),
        pytest.raises(DacycleError, match=rf"process {os.getpid()} on .*/dacycle up\)") as refused,
        locked(tmp_path / "up.lock", "it", DacycleError),
    ):
        pytest.fail("two processes hold it")
    assert "secret" not in str(refused.value) + (tmp_path / "up.lock").read_text()
