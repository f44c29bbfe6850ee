"""Alerts: what needs somebody is told once when it begins, and once when it is over.

`watch` compares what holds now (`verification.attention`) with the alerts that are open, and keeps all of them in
`branches/NAME/alerts.json`, with what each way of telling has taken. What one could not tell it tries again at the next
look. Any number of processes may look, such as `dacycle serve` and a `dacycle alerts` in cron.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd

from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.common.locks import locked
from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.exceptions import ArchiveError
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
        told: by name of a way of telling, the last of its states that it told: `open` or `over`.
    """

    experiment: str
    key: str
    severity: Severity
    text: str
    cycle: str
    began: str
    ended: str | None = None
    told: Mapping[str, str] = field(default_factory=dict)

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


def watch(branch: Branch, world: World, now: pd.Timestamp, ways: Mapping[str, Tell] | None = None) -> list[Alert]:
    """Look at a run: open and close its alerts, tell those that are new or over, and return those that are open.

    Args:
        branch: of the run; its cycles are verified as far as they are not yet.
        world: of the run.
        now: UTC.
        ways: of telling, by name. Without any, nothing counts as told.

    Raises:
        ArchiveError: the archive or the file of the alerts is damaged, or cannot be written.
    """
    records = [record for record in branch.recent_records(HISTORY) if record.status != "cold_start"]
    fits = verify(branch, world).fits
    with locked(_path(branch).with_name("alerts.lock"), f"the alerts of {branch.name}", ArchiveError, wait=True):
        before = alerts_of(branch)
        lasting = [alert.key for alert in before if alert.ended is None]
        found = conditions(branch.experiment, records, fits, now, lasting)
        after = _updated(before, found, branch.name, records[-1].id if records else "", now)
        told = [_told(alert, ways or {}) for alert in after]
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


def _told(alert: Alert, ways: Mapping[str, Tell]) -> Alert:
    """Tell an alert by the ways that have not told its state yet; that it is over only by those that told it before."""
    told = dict(alert.told)
    for name, tell in ways.items():
        if told.get(name) == alert.state or (alert.ended is not None and name not in told):
            continue
        try:
            tell(alert)
        except OSError as error:
            logger.warning("alert %r of %s could not be told by %s: %s", alert.key, alert.experiment, name, error)
        else:
            told[name] = alert.state
    return alert if told == alert.told else replace(alert, told=told)


def _path(branch: Branch) -> Path:
    return branch.folder / "alerts.json"
