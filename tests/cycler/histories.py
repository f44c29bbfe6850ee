"""Records and fits of made-up runs, in which one source reports once a day."""

import pandas as pd

from dacycle.cycler.archive.record import CycleRecord, SourceRecord
from tests.cycler.runs import START

DAYS = 12


def source(name="sondes", decoded=100, late=2, problems=()):
    return SourceRecord(name, decoded + 5, decoded, 5, late, 40.0, {}, {}, [], list(problems))


def record(day, hour=0, status="ok", sources=None, reason=""):
    time = START + pd.Timedelta(days=day, hours=hour)
    return CycleRecord(time, status, {}, reason=reason, sources={"sondes": source()} if sources is None else sources)


def fits(records, count=100, ratio=1.1, mean=0.0, use="assimilated", reason=""):
    rows = [
        {"time": r.time, "source": "sondes", "variable": "t", "layer": "surface", "use": use, "reason": reason,
         "count": count, "compared": count, "error_squared": count * 1.0, "o_b": count * mean,
         "o_b_in_errors_squared": count * ratio**2, "o_a_in_errors_squared": count * 1.0}
        for r in records
    ]  # fmt: skip
    return pd.DataFrame(rows)
