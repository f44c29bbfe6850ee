"""Alerts: what needs somebody is told once when it begins, and once when it is over.

`watch` compares what holds now (`verification.attention`) with the alerts that are open, and keeps all of them in
`branches/NAME/alerts.json`. An alert counts as told once every way of telling has taken it; what could not be told is
tried again at the next look. Any number of processes may look, such as `dacycle serve` and a `dacycle alerts` in cron.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.lock import locked
from dacycle.cycler.verification.attention import HISTORY, Condition, Severity, conditions
from dacycle.cycler.verification.cycles import verify
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["Alert", "Tell", "alerts_of", "watch"]

logger = logging.getLogger(__name__)

KEPT = pd.Timedelta(days=400)
"""Alerts that have been over for longer are forgotten."""


@dataclass(frozen=True)
class Alert:
    """Hold one alert.

    Attributes:
        experiment: name of the run.
        key: what it is about, as in `Condition`; a run has at most one open alert of each.
        severity: `critical` or `warning`.
        text: what was found when it began.
        cycle: the newest cycle then.
        began: when it was found, UTC, ISO 8601.
        ended: when it was found to be over; None while it is open.
        told: the last of its states that was told: "", `open` or `over`.
    """

    experiment: str
    key: str
    severity: Severity
    text: str
    cycle: str
    began: str
    ended: str | None = None
    told: str = ""

    @property
    def state(self) -> str:
        """Return `open` or `over`."""
        return "open" if self.ended is None else "over"


Tell = Callable[[Alert], None]
"""A way of telling somebody that an alert is open or over; raises OSError where that was not possible."""


def alerts_of(branch: Branch) -> list[Alert]:
    """Return the alerts of a run, the oldest first, as the last look at it left them.

    Raises:
        ArchiveError: their file cannot be read; it names the file and the remedy.
    """
    path = _path(branch)
    if not path.is_file():
        return []
    with reading(f"{path}: the alerts of {branch.name} (delete it: they are then told again)", ArchiveError):
        return [Alert(**item) for item in json.loads(path.read_bytes())]


def watch(branch: Branch, world: World, now: pd.Timestamp, ways: Sequence[Tell] = ()) -> list[Alert]:
    """Look at a run: open and close its alerts, tell those that are new or over, and return those that are open.

    Args:
        branch: of the run; its cycles are verified as far as they are not yet.
        world: of the run.
        now: UTC.
        ways: of telling. Without any, nothing counts as told.

    Raises:
        ArchiveError: the archive or the file of the alerts is damaged, or cannot be written.
    """
    records = [record for record in branch.recent_records(HISTORY) if record.status != "cold_start"]
    fits = verify(branch, world).fits
    with locked(_path(branch).with_name("alerts.lock"), f"the alerts of {branch.name}", wait=True):
        before = alerts_of(branch)
        lasting = [alert.key for alert in before if alert.ended is None]
        found = conditions(branch.experiment, records, fits, now, lasting)
        after = _updated(before, found, branch.name, records[-1].id if records else "", now)
        told = [_told(alert, ways) for alert in after]
        if told != before:
            write_whole(_path(branch), json.dumps([asdict(alert) for alert in told], indent=1).encode())
    return [alert for alert in told if alert.ended is None]


def _updated(
    before: Sequence[Alert], found: Sequence[Condition], name: str, cycle: str, now: pd.Timestamp
) -> list[Alert]:
    """Return the alerts with those that are over closed, and new ones at the end."""
    when, holding = now.isoformat(timespec="seconds"), {condition.key for condition in found}
    kept = [alert for alert in before if alert.ended is None or now - pd.Timestamp(alert.ended) < KEPT]
    kept = [replace(a, ended=when) if a.ended is None and a.key not in holding else a for a in kept]
    lasting = {alert.key for alert in kept if alert.ended is None}
    new = [c for c in found if c.key not in lasting]
    return [*kept, *(Alert(name, c.key, c.severity, c.text, cycle, when) for c in new)]


def _told(alert: Alert, ways: Sequence[Tell]) -> Alert:
    """Tell an alert whose state was not told yet; one that was over before anybody could be told is left."""
    if not ways or alert.told == alert.state or (alert.ended is not None and not alert.told):
        return alert
    try:
        for tell in ways:
            tell(alert)
    except OSError as error:
        logger.warning("alert %r of %s could not be told: %s", alert.key, alert.experiment, error)
        return alert
    return replace(alert, told=alert.state)


def _path(branch: Branch) -> Path:
    return branch.folder / "alerts.json"
