"""Say what of a run needs somebody: its schedule, the newest cycle, and what is unusual against the run's own past."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.cycler.verification import usual
from dacycle.forecast_adapter.channels import readable

__all__ = ["HISTORY", "LATE", "Condition", "Schedule", "Severity", "conditions", "schedule"]

Severity = Literal["critical", "warning"]

LATE = "cycle late"
"""Key of the condition that a live run is behind its schedule."""

SLACK = pd.Timedelta(minutes=30)
"""A live cycle counts as behind once it has not been there for this long after its last cutoff."""
HISTORY = 4 * (usual.PAST + 2)
"""Number of newest records that `conditions` needs; more change nothing."""
_OVER = 4.0
"""What was unusual is over once its strength is below this."""


@dataclass(frozen=True)
class Condition:
    """Hold one thing that needs attention.

    Attributes:
        key: what it is about, the same as long as it lasts, e.g. `source sondes silent`.
        severity: `critical` where the run is late, loses an analysis or a whole source; else `warning`.
        text: a sentence.
    """

    key: str
    severity: Severity
    text: str


@dataclass(frozen=True)
class Schedule:
    """Hold how a run stands: `short` for a glance, `text` in a sentence; `level` is `good`, `warn` or `bad`.

    `behind` is the number of live cycles that should be there and are not.
    """

    level: str
    short: str
    text: str
    behind: int = 0


def schedule(experiment: Experiment, last: pd.Timestamp, now: pd.Timestamp) -> Schedule:
    """Return how far a run is: a replay towards its end, a live run against the clock (`now`, UTC)."""
    following = last + STEP
    if experiment.end is not None and following > experiment.end:
        return Schedule("good", "complete", f"the run is complete, {cycle_id(last)} is its end")
    if experiment.end is not None:
        left = int((experiment.end - last) / STEP)
        text = f"{left} cycles are left until {cycle_id(experiment.end)}; the same `dacycle hindcast` goes on"
        return Schedule("warn", f"{left} cycles left", text)
    ready = following + experiment.wait
    if now < ready:
        return Schedule("good", "up to date", f"the next cycle, {cycle_id(following)}, is due in {_span(ready - now)}")
    behind = int((now - experiment.wait - last) / STEP)
    text = f"{cycle_id(following)} has been due for {_span(now - ready)}"
    if now < ready + SLACK:
        return Schedule("good", "due now", text)
    cycles = "cycle" if behind == 1 else "cycles"
    return Schedule("bad", f"{behind} {cycles} behind", f"{text}; `dacycle serve` or `dacycle cycle` runs it", behind)


def conditions(
    experiment: Experiment,
    records: Sequence[CycleRecord],
    fits: pd.DataFrame,
    now: pd.Timestamp,
    lasting: Collection[str] = (),
) -> list[Condition]:
    """Return what needs attention after the newest cycle, the critical first; nothing where the run is well.

    Args:
        experiment: of the run.
        records: of its newest cycles, in order, without the cold start; `HISTORY` of them are enough.
        fits: as in `Verification.fits`, at least of these cycles.
        now: UTC.
        lasting: keys of conditions that held before; what is unusual ends at a lower limit than that at which it
            begins.
    """
    if not records:
        return []
    records = records[-HISTORY:]
    fits = fits[fits["time"] >= records[0].time]
    plan = schedule(experiment, records[-1].time, now)
    found = [Condition(LATE, "critical", plan.text)] if plan.level == "bad" else []
    found += [*_status(records), *_unreadable(records[-1]), *_silent(records), *_unusual(records, fits, lasting)]
    return sorted(found, key=lambda condition: condition.severity)


def _status(records: Sequence[CycleRecord]) -> Iterator[Condition]:
    last = records[-1]
    if last.status == "fallback":
        count = next((i for i, r in enumerate(reversed(records)) if r.status != "fallback"), len(records))
        times = "" if count == 1 else f" ({count} cycles in a row)"
        text = f"{last.id} kept its background as the analysis{times}: {last.reason}"
        yield Condition("fallback", "critical", text)
    elif last.status != "ok":
        yield Condition(last.status, "warning", f"{last.id} is {last.status}: {last.reason}")


def _unreadable(last: CycleRecord) -> Iterator[Condition]:
    for name, source in last.sources.items():
        if source.problems:
            more = f", and {len(source.problems) - 1} more" if len(source.problems) > 1 else ""
            text = f"source {name} could not be read whole: {source.problems[0]}{more}"
            yield Condition(f"source {name} unreadable", "warning", text)


def _silent(records: Sequence[CycleRecord]) -> Iterator[Condition]:
    """Yield the sources that had nothing when they last should have, within a day.

    Where too few cycles say what is usual at an hour, a source that ever reported should have.
    """
    names = dict.fromkeys(name for record in records for name in record.sources)
    for name in names:
        decoded = pd.Series({r.time: r.sources[name].decoded if name in r.sources else 0 for r in records})
        for place in range(len(decoded) - 1, max(-1, len(decoded) - 5), -1):
            if decoded.iloc[place]:
                break
            past = decoded.iloc[:place]
            alike = past[past.index.hour == decoded.index[place].hour].iloc[-usual.PAST :]
            known = len(alike) >= usual.FEWEST
            expected = float(alike.median()) if known else float((past > 0).any())
            if not expected:
                continue
            said = f"; {expected:,.0f} reports are usual at this hour" if known else ""
            text = f"source {name} was silent in {cycle_id(decoded.index[place])}{said}"
            yield Condition(f"source {name} silent", "critical", text)
            break


# --- what is unusual --------------------------------------------------------------------------------------------------


def _unusual(records: Sequence[CycleRecord], fits: pd.DataFrame, lasting: Collection[str]) -> Iterator[Condition]:
    """Yield one condition for each source, one for the increments and one for the spread of the members.

    Each names what departs most from its past. A source that is unusual itself says nothing of the spread.
    """
    values = usual.quantities(records, fits)
    strength = usual.strengths(values).iloc[-1].dropna().sort_values(ascending=False)
    typical, newest = usual.typical(values), values.ffill(limit=3).iloc[-1]
    subjects = np.array([_subject(key) for key in strength.index])
    told: set[str] = set()
    for subject in sorted(dict.fromkeys(subjects), key="spread".__eq__):
        key, own = f"{subject} unusual", strength[subjects == subject]
        beyond = own[own > (_OVER if key in lasting else usual.LIMIT)]
        if subject == "spread":
            beyond = beyond[[f"source {of}" not in told for _, of, _, _ in beyond.index]]
        if beyond.empty:
            continue
        told.add(subject)
        first = beyond.index[0]
        more = f", and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        said = _said(first, newest[first], typical[first])
        yield Condition(key, "warning", f"{subject}: {said} ({beyond.iloc[0]:.0f} standard deviations){more}")


def _subject(key: tuple[str, str, str, str]) -> str:
    quantity, source, _, _ = key
    return "spread" if quantity == "spread" else f"source {source}" if source else "increments"


def _said(key: tuple[str, str, str, str], value: float, typical: float) -> str:
    """Return a quantity of the last day beside what is usual, in plain units."""
    quantity, _, variable, layer = key
    of = " ".join(part for part in (variable, "" if layer == "surface" else layer) if part)
    name, shown = _SHOWN[quantity]
    if quantity == "increment":
        factor, unit = readable(variable)
        return _beside(f"{of} changed by", *(f"{factor * np.exp(x):.3g} {unit}" for x in (value, typical)))
    return _beside(f"{of} {name}".strip(), *(shown(x) for x in (value, typical)))


_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "reports": ("reports:", lambda x: f"{np.expm1(x):,.0f}"),
    "late": ("late:", lambda x: f"{100 * x:.1f} %"),
    "latency": ("latency:", lambda x: f"{x:.0f} min"),
    "rejected": ("rejected:", lambda x: f"{100 * x * x:.1f} %"),
    "mean": ("mean O-B:", lambda x: f"{x:+.2f} stated errors"),
    "rms": ("root mean square O-B:", lambda x: f"{np.exp(x):.2f} stated errors"),
    "spread": ("RMS O-B over what spread and stated error explain:", lambda x: f"{np.exp(x):.2f}"),
    "increment": ("", str),
}
"""How each quantity of `usual.quantities` is called and shown."""


def _beside(name: str, value: str, typical: str) -> str:
    return f"{name} {value}; {typical} is usual at this hour"


def _span(span: pd.Timedelta) -> str:
    hours = span.total_seconds() / 3600
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
