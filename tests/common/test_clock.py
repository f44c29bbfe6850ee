"""The clock of live runs: the machine's own, or that of a rehearsal."""

import pandas as pd
import pytest

from dacycle.common import clock
from dacycle.common.settings import SettingsError


def machine() -> pd.Timestamp:
    return pd.Timestamp.now("UTC").tz_localize(None)


def test_without_the_setting_it_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DACYCLE_CLOCK", raising=False)
    before = machine()
    assert before <= clock.now() <= machine()
    assert not clock.read_clock().rehearses


def test_a_rehearsal_runs_from_its_moment_on_as_fast_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    began = machine().floor("1s") - pd.Timedelta(seconds=10)
    monkeypatch.setenv("DACYCLE_CLOCK", f"2024-01-05T03 since {began:%Y-%m-%dT%H:%M:%S} x360")
    shown = clock.now()
    assert shown >= pd.Timestamp("2024-01-05T04"), "ten seconds are an hour"
    assert abs(clock.read_clock().of_machine(shown) - machine()) < pd.Timedelta(seconds=5)
    later = began + pd.Timedelta(minutes=2)
    assert clock.read_clock().of_machine(pd.Timestamp("2024-01-05T15")) == later
    monkeypatch.setenv("DACYCLE_CLOCK", f"2024-01-05T03 since {began:%Y-%m-%dT%H:%M:%S}")
    assert clock.read_clock().of_machine(pd.Timestamp("2024-01-05T03:02")) == later, "as fast as the machine's"


@pytest.mark.parametrize(
    "text", ["2024-01-05T03", "yesterday since now x2", "2024-01-05T03 since 2026-11-29T05 x0", "a since b since c"]
)
def test_another_form_is_refused_with_an_example(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACYCLE_CLOCK", text)
    with pytest.raises(SettingsError, match=r"DACYCLE_CLOCK is .* x480, in UTC"):
        clock.now()
