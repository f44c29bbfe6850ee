"""dacycle: cycling data assimilation with AI weather models.

The four components, and `deploy` with its worlds and examples, live at the top of the repository and are imported from
here::

    dacycle.forecast_adapter   states, grids, statistics, scores, forecast models
    dacycle.obs_ingest         sources, quality control, observation operators, superobs
    dacycle.assimilators       background + observations -> analysis
    dacycle.cycler             cycles, archive, drift, reports, flows, the command line
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dacycle.cycler.archive.branches import open_experiment as open

__all__ = ["COMPONENTS", "__version__", "open"]
__version__ = "0.1.0"

COMPONENTS = ("cycler", "assimilators", "obs_ingest", "forecast_adapter")

_lost = [name for name in (*COMPONENTS, "deploy") if not (Path(__file__).parent / name).is_dir()]
if _lost:
    raise ImportError(
        f"dacycle: {Path(__file__).parent} has no folder for {', '.join(_lost)}: this checkout or archive has lost "
        "the symbolic links src/dacycle/NAME -> ../../NAME; clone it with `git clone -c core.symlinks=true`, or "
        "install the built wheel, and try again."
    )


def __getattr__(name: str) -> Any:
    """`dacycle.open` loads the archive only when asked for, so that `import dacycle` stays light."""
    if name == "open":
        from dacycle.cycler.archive.branches import open_experiment

        return open_experiment
    raise AttributeError(f"module 'dacycle' has no attribute {name!r}")
