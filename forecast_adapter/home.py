"""Where what a user has made or brought is kept: `$DACYCLE_HOME`."""

import os
from pathlib import Path

__all__ = ["dacycle_home"]


def dacycle_home() -> Path:
    """The folder of a user's own worlds and models: `$DACYCLE_HOME`, or `~/.local/share/dacycle`."""
    return Path(os.environ.get("DACYCLE_HOME", Path.home() / ".local/share/dacycle"))
