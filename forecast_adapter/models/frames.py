"""The two frames that a forecast starts from, after an analysis has changed the newer one."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer

from dacycle.forecast_adapter.channels import GROUPS

__all__ = [
    "CycledFrames",
    "Frames",
    "frames_text",
    "older_frame",
    "read_cycled_frames",
    "read_frames",
    "with_increment",
    "write_frames",
]

Smoothed = Literal["smoothed"]


def read_frames(value: object) -> float | None:
    """Return the share of the increment that the older frame gets; None for `newest`, and where nothing is stated.

    Raises:
        ValueError: the value is neither `newest`, `both`, nor {both: SHARE}.
    """
    if value == "smoothed":
        raise ValueError(
            "frames: smoothed takes the members of a cycled ensemble (letkf or hybrid in an experiment), and there are "
            "none here; say newest, both, or {both: SHARE}"
        )
    share = {"newest": None, "both": 1.0}.get(value, value) if isinstance(value, str) else value
    if isinstance(value, Mapping) and list(value) == ["both"]:
        share = value["both"]
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1):
        raise ValueError("frames is newest, both, or {both: SHARE} with a share of the increment above 0, at most 1")
    return None if share is None else float(share)


def read_cycled_frames(value: object) -> float | Smoothed | None:
    """Return what `read_frames` returns, or `smoothed`; errors as there."""
    return "smoothed" if value == "smoothed" else read_frames(value)


def write_frames(share: float | Smoothed | None) -> Any:
    """Return what `frames` says for a share; None for `newest`, which is the default."""
    return share if share is None or share == "smoothed" else "both" if share == 1 else {"both": share}


def frames_text(share: float | Smoothed | None) -> str:
    """Return a share as a reader would write it in an experiment, `newest` included."""
    if share is None or share == "smoothed":
        return share or "newest"
    return "both" if share == 1 else f"{{both: {share:g}}}"


Frames = Annotated[float | None, BeforeValidator(read_frames), PlainSerializer(write_frames)]
"""What a configuration states as `frames`: the share of an increment that the older frame gets; None for `newest`."""

CycledFrames = Annotated[float | Smoothed | None, BeforeValidator(read_cycled_frames), PlainSerializer(write_frames)]
"""The same in an experiment, where an ensemble may correct both frames by their own covariances: `smoothed`."""


def older_frame(
    older: NDArray[np.float32], background: NDArray[np.float32], analysis: NDArray[np.float32], share: float | None
) -> NDArray[np.float32]:
    """Return the older frame with a share of the newer frame's increment, without negative humidity.

    A network trained on seamless pairs takes an increment in the newer frame alone for a tendency, and carries it on.
    With the increment in both frames the tendency stays that of the background.

    Args:
        older: the frame 6 h before the analysis, (..., 69, H, W), SI.
        background, analysis: the newer frame before and after the analysis, of the same shape.
        share: of the increment, 0 to 1; with None the older frame stays as it is.
    """
    if share is None:
        return older
    return with_increment(older, np.float32(share) * (analysis - background))


def with_increment(older: NDArray[np.float32], increment: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the older frame with an increment of its own, both (..., 69, H, W) in SI, without negative humidity."""
    moved = older + increment
    moved[..., GROUPS["q"], :, :] = np.maximum(moved[..., GROUPS["q"], :, :], 0)
    return moved
