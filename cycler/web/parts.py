"""Parts of a page that may not be readable: each holds its content, or `trouble`, a sentence."""

from collections.abc import Callable, Mapping
from typing import Any

from dacycle.common.errors import DacycleError

__all__ = ["attempt", "is_troubled"]


def attempt(make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `make` returns, with an empty `trouble`; or why it could not be made, as `trouble`."""
    try:
        return {**make(), "trouble": ""}
    except (DacycleError, OSError) as error:
        return {"trouble": str(error)}


def is_troubled(content: Any) -> bool:
    """Whether some part of a content, however deep in dictionaries and lists, could not be read."""
    if isinstance(content, Mapping):
        return bool(content.get("trouble")) or any(map(is_troubled, content.values()))
    return isinstance(content, list) and any(map(is_troubled, content))
