"""How the members of an ensemble are kept, in the schema of a state.

The group `members` holds their perturbations of the analysis. With `frames: smoothed` the group `smoothed` holds the
older frame of the next forecast, which is 6 h before the time that it is kept at, and `smoothed_members` their
perturbations of it. So it does for cycles that start from a late chain, whose older frame is no analysis of the branch.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import GROUPS
from dacycle.forecast_adapter.state import to_arrays

__all__ = ["MEMBERS", "SMOOTHED", "SMOOTHED_MEMBERS", "Smoothed", "around", "members_dataset", "shortened"]

MEMBERS, SMOOTHED, SMOOTHED_MEMBERS = "members", "smoothed", "smoothed_members"


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Hold the older frame of the next forecast, (69, H, W), and the members' perturbations of it, (N, 69, H, W).

    Without an ensemble there are no members.
    """

    frame: NDArray
    members: NDArray | None


def around(frame: NDArray, perturbations: NDArray) -> NDArray[np.float32]:
    """Return the members (N, 69, H, W) around a frame (69, H, W), with humidity at least 0."""
    members = frame + perturbations
    members[:, GROUPS["q"]] = np.maximum(members[:, GROUPS["q"]], 0)
    return members


def shortened(members: NDArray) -> NDArray[np.float32]:
    """Return perturbations rounded to 11 significant bits, 0.05 % of each, which take half the space of all 24."""
    bits = np.ascontiguousarray(members, np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


def members_dataset(members: NDArray, state: xr.Dataset) -> xr.Dataset:
    """Return perturbations (N, 69, H, W) as a dataset like that of a `state` of their time, with an axis `member`."""
    variables = {
        name: (("time", "member", *state[name].dims[1:]), array[None], state[name].attrs)
        for name, array in to_arrays(members).items()
    }
    return xr.Dataset(variables, coords={**state.coords, "member": np.arange(1, len(members) + 1)})
