"""Use a second core: the scores that all runs share, half of the work of a forecast, are made in a process beside it.

The process goes through the same starts. What it has made the run reads; what it is making the run waits for, once its
own forecast is done (`shared.try_shared_scores`).
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context

import pandas as pd

from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.verification.drift import verifiable_leads
from dacycle.cycler.verification.shared import shared_scores
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["sharing_ahead"]

_FEWEST = 8
"""Fewer forecasts are made before another process has begun."""


@contextmanager
def sharing_ahead(branch: Branch, starts: Sequence[pd.Timestamp], threads: int) -> Iterator[None]:
    """Make the shared scores of the starts in another process while the block runs, where there is a core for it."""
    if len(starts) < _FEWEST or (os.cpu_count() or 1) <= threads:
        yield
        return
    arguments = (str(branch.archive.folder), branch.name, list(starts), threads)
    process = get_context("spawn").Process(target=_make, args=arguments, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _make(folder: str, name: str, starts: Sequence[pd.Timestamp], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run ends this process
    archive = Archive(folder)
    branch = archive.branch(name)
    world, model = load_world(branch.experiment.world), load_model(branch.experiment.model, threads)
    for start in starts:
        shared_scores(archive, world, model, start, verifiable_leads(branch, world, start))
