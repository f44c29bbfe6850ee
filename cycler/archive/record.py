"""The record of a cycle: how it went, what it used, and the digests of everything that decided it.

A record holds nothing that another run of the same cycle would not repeat. `CycleRecord.to_json` and `from_json` are
the only places that write and read its JSON. A further key gets a default of None, which is not written, so that
records from before it keep their text and thus their fingerprint.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from dacycle.common.foreign import reading
from dacycle.common.times import cycle_id
from dacycle.cycler.archive.exceptions import ArchiveError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CycleRecord", "SourceRecord", "Status", "read_content"]

Status = Literal["cold_start", "ok", "degraded", "fallback"]


@dataclass(frozen=True)
class SourceRecord:
    """Hold what a source had for a cycle; the attributes are those of `obs_ingest.sources.base.Inventory`."""

    source: str
    found: int
    decoded: int
    missing: int
    late: int
    latency: float | None
    skipped: Mapping[str, int]
    values: Mapping[str, int]
    files: Sequence[str]
    problems: Sequence[str]
    digests: Mapping[str, str] | None = None
    unreadable: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by sorted name; those that are None because the record is older are left out."""
        return {
            name: value
            for name, value in sorted(vars(self).items())
            if value is not None or name not in ("digests", "unreadable")
        }


@dataclass(frozen=True)
class CycleRecord:
    """Hold the record of one committed analysis.

    Attributes:
        time: the analysis time.
        status: `cold_start` for the two frames before the first cycle, which have no more than time, status, digests
            and frame.
        digests: SHA-256 of the experiment, model, assimilator, learned operator, station lists and observations.
        frame: a sentence, where one state was used for both frames of the cold start.
        experiment: name of the experiment that ran the cycle; a fork's past has its donor's.
        reason: why the status is not `ok`.
        uses: number of values by use.
        reasons: number of values that were not assimilated, by reason.
        variables: number of values by variable and use.
        sources: what each source had, by its name.
        gridded: number of observed values on the grid, superobs counted once.
        clipped_water: water that clipping humidity at 0 added, kg m-2 averaged over the globe.
        increment_rms: root mean square of the increment by channel, SI.
        increment_max: largest absolute increment by channel, SI.
        thickness_imbalance: by layer; see `assimilators.balance`.
        supersaturated: number of values of humidity in the analysis above 110 % of saturation; see
            `assimilators.balance`.
        background_error: error of the background by channel or variable and band of latitude, SI, as the departures up
            to this cycle give it; see `obs_ingest.quality.background_error`.
        withheld_sites: latitude and longitude of withheld sites that reported for the first time.
        departures: SHA-256 of the file with the cycle's departures.
        unpaired_model: a sentence, where the model was made for another world or kind of reference.
        start: where an experiment with a late chain begins the cycle: `from`, the run, `cycle` and `digest` of the
            analysis, and `again`, what is run again between that and this cycle; see `cycle.late`.
        background_spread, analysis_spread: of the members, by channel, SI: root mean square of their standard deviation
            over the globe; only of methods with members.
    """

    time: "pd.Timestamp"
    status: Status
    digests: Mapping[str, str]
    frame: str | None = None
    experiment: str = ""
    reason: str = ""
    uses: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    variables: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sources: Mapping[str, SourceRecord] = field(default_factory=dict)
    gridded: int = 0
    clipped_water: float = 0.0
    increment_rms: Mapping[str, float] = field(default_factory=dict)
    increment_max: Mapping[str, float] = field(default_factory=dict)
    thickness_imbalance: Mapping[str, float] | None = None
    supersaturated: int | None = None
    background_error: Mapping[str, Sequence[float]] | None = None
    withheld_sites: Sequence[Sequence[float]] | None = None
    departures: str | None = None
    unpaired_model: str | None = None
    start: Mapping[str, Any] | None = None
    background_spread: Mapping[str, float] | None = None
    analysis_spread: Mapping[str, float] | None = None

    @property
    def id(self) -> str:
        """Return the name of the cycle, e.g. `20240104T00`."""
        return cycle_id(self.time)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by sorted name, as JSON holds them; what a record lacks is left out."""
        names = _COLD_START if self.status == "cold_start" else _NAMES
        content = {name: getattr(self, name) for name in names}
        content["time"] = self.id
        if "sources" in content:
            content["sources"] = {name: source.as_dict() for name, source in self.sources.items()}
        return {name: value for name, value in content.items() if value is not None}

    def to_json(self) -> str:
        """Return the record's text, the same whenever and wherever the cycle is run."""
        return json.dumps(self.as_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "CycleRecord":
        """Return the record that a text holds.

        Raises:
            ArchiveError: the text is no record, or holds a key that this version does not know.
        """
        import pandas as pd

        content = read_content(text)
        content["time"] = pd.Timestamp(content["time"])
        content["sources"] = {name: SourceRecord(**source) for name, source in content.get("sources", {}).items()}
        return cls(**content)


_COLD_START = ("digests", "frame", "status", "time")
_NAMES = tuple(sorted(attribute.name for attribute in fields(CycleRecord)))
_SOURCE_NAMES = tuple(attribute.name for attribute in fields(SourceRecord))


def read_content(text: str) -> dict[str, Any]:
    """Return what a record's text holds as plain values, the time as the cycle's name. Errors as `from_json`."""
    with reading("the record of a cycle", ArchiveError):
        content: dict[str, Any] = json.loads(text)
    _refuse_unknown(content, content, _NAMES)
    for source in content.get("sources", {}).values():
        _refuse_unknown(content, source, _SOURCE_NAMES)
    return content


def _refuse_unknown(record: Mapping[str, Any], content: Mapping[str, Any], names: Sequence[str]) -> None:
    unknown = sorted(content.keys() - set(names))
    if unknown:
        raise ArchiveError(
            f"the record of cycle {record.get('time')} holds {', '.join(unknown)}, which this version of dacycle does "
            "not know; read the archive with the version that wrote it, or a newer one"
        )
