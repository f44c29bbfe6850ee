"""How much memory something takes, as Linux tells it of this process."""

import gc
from collections.abc import Callable
from pathlib import Path

__all__ = ["peak_memory"]


def peak_memory(run: Callable[[], object]) -> int | None:
    """Bytes of memory that a call took at most, beyond what was held before it; None where the system does not tell."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # begin the high-water mark anew
    except OSError:
        run()
        return None
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
