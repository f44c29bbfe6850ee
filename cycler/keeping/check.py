"""Whether an archive is whole, and how what is not is mended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.experiment import STEP, cycle_id
from dacycle.cycler.keeping.backup import differing, refuse_other

__all__ = ["Health", "check", "remedies"]


@dataclass(frozen=True)
class Health:
    """Hold what is damaged in an archive.

    Attributes:
        damaged: by experiment, a sentence for each array or file, with what mends it.
        rewinds: by experiment, the cycle to go back to so that no damaged state is left, and the number of cycles that
            are then run again; only where going back mends something.
        differing: files that are not what their copy in the backup is; None without a backup.
    """

    damaged: Mapping[str, Sequence[str]]
    rewinds: Mapping[str, tuple[pd.Timestamp, int]] = field(default_factory=dict)
    differing: Sequence[str] | None = None

    @property
    def is_whole(self) -> bool:
        """Return whether nothing is damaged."""
        return not any(self.damaged.values()) and not self.differing


def check(archive: Archive, backup: Path | None = None) -> Health:
    """Read everything that an archive holds, compare it with its digests, and with a backup where one is named.

    Runs may go on meanwhile; rewinds and tidying wait.

    Raises:
        ArchiveError: the backup is none, or one of another archive, or something is being removed from the archive.
    """
    if backup is not None:
        refuse_other(backup, archive.folder)
    with archive.nothing_removed():
        return _check(archive, backup)


def _check(archive: Archive, backup: Path | None) -> Health:
    damaged: dict[str, list[str]] = {}
    rewinds: dict[str, tuple[pd.Timestamp, int]] = {}
    told: set[str] = set()  # runs share scores and a past
    for name in archive.branches():
        branch = archive.branch(name)
        found = branch.damage()
        damaged[name] = [each.sentence for each in found if each.sentence not in told]
        told.update(damaged[name])
        cycles = [each.cycle for each in found if each.cycle is not None]
        if cycles and (target := _target(branch, min(cycles))):
            rewinds[name] = target
    health = Health(damaged, rewinds)
    return health if backup is None else replace(health, differing=differing(archive.folder, backup, health.is_whole))


def _target(branch: Branch, damaged: pd.Timestamp) -> tuple[pd.Timestamp, int] | None:
    """Return the last cycle before a damaged one from which the run can go on, and the number of cycles after it."""
    try:
        restarts = branch.restarts
        earlier = restarts[(restarts < damaged) & (restarts >= branch.experiment.start - STEP)]
        return (earlier[-1], int((branch.times > earlier[-1]).sum())) if len(earlier) else None
    except ArchiveError:  # the list of cycles is what is damaged
        return None


def remedies(health: Health, archive: Path, backup: Path | None) -> list[str]:
    """Return a line for each thing that can be done."""
    lines = [
        f"dacycle rewind {name} {cycle_id(time)} --archive {archive}    # then run it again: {count} cycles"
        for name, (time, count) in health.rewinds.items()
    ]
    files = [f"dacycle archive restore {backup} {archive} --only {name}" for name in health.differing or ()]
    return files + lines
