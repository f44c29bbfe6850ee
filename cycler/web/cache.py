"""Keep what was computed, for several viewers at once: each thing is computed by one thread, while others wait."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Cache"]


class Cache:
    """Keep the results that were last asked for, by key.

    Args:
        most: number of results.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any], lasts: Callable[[Any], bool] = lambda _: True) -> Any:
        """Return what is kept under a key, or make it; what `make` raises is raised, and not kept.

        Nor is a result kept of which `lasts` says that it does not.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        with entry.lock:
            if not entry.made:
                value = make()
                if not lasts(value):
                    return value
                entry.value, entry.made = value, True
            return entry.value


class _Entry:
    """One result, or the promise of it."""

    def __init__(self) -> None:
        self.lock, self.made, self.value = threading.RLock(), False, None
