"""What `up` keeps in a file from one run to the next."""

import errno
from pathlib import Path

import pytest

from dacycle.cycler.up import kept
from dacycle.cycler.up.kept import Kept


def test_processes_that_could_not_be_written_are_written_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "state.json"
    held = Kept(file)
    held.set_processes({"server": 1})
    with monkeypatch.context() as patched:
        patched.setattr(kept, "write_whole", full)
        with pytest.raises(OSError, match="No space"):
            held.set_processes({"server": 2})
    held.set_processes({"server": 2})
    assert Kept.read(file).processes == {"server": 2}
