"""Experiment files: what is refused, where the complaint points, what counts as the same experiment."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.experiment import (
    ExperimentError,
    differences,
    load_experiment,
    parse_experiment,
    write_experiment,
)
from dacycle.forecast_adapter.durations import parse_duration
from dacycle.obs_ingest.errors.model import ERRORS, KINDS

GOOD = """\
name: demo
world: demonstration
grid: 5.625deg
start: 2024-01-04T00
end: 2024-01-18T00
cold_start: {lagged: 48h}
model: mini
assimilator: oi
observations:
  - {source: stations, cutoff: 3h, network: list.csv}
  - {source: olr, cutoff: none}
deny: [olr]
guards: {increment_limit: 5}
drift:
  starts: [0, 12]
  lead: 10d
seed: 1
"""


def complaint(old: str, new: str) -> str:
    assert old in GOOD
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(GOOD.replace(old, new), "demo.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("world:", "wolrd:", "demo.yaml:2: wolrd: unknown key; did you mean world?"),
        ("seed: 1", "tuning: {inflatoin: 0.3}\nseed: 1", "tuning.inflatoin: unknown key; did you mean inflation?"),
        ("seed: 1", "tuning: {block: 0}\nseed: 1", "tuning.block"),
        ("seed: 1", "tuning: {block: 1.5}\nseed: 1", "tuning.block"),
        ("seed: 1", "tuning: {shift: far}\nseed: 1", "tuning.shift"),
        ("seed: 1", "tuning: {inflation: [1]}\nseed: 1", "tuning.inflation: is one number or one for each of surface"),
        ("seed: 1", "model_bias: yes\nseed: 1", "model_bias"),
        ("world: demonstration\n", "", "world: this key is required"),
        ("increment_limit", "increment_limits", "demo.yaml:13: guards.increment_limits: unknown key; did you mean"),
        (
            "seed: 1",
            "quality: {budy_check: 4}\nseed: 1",
            "demo.yaml:17: quality.budy_check: unknown key; did you mean buddy",
        ),
        ("seed: 1", "quality: {buddy_check: true}\nseed: 1", "quality.buddy_check: Input should be a valid number"),
        (
            "seed: 1",
            "quality: {background_check: 0}\nseed: 1",
            "quality.background_check: Input should be greater than",
        ),
        ("  lead: 10d", "  leads: 10d", "demo.yaml:16: drift.leads: unknown key; did you mean lead?"),
        ("lead: 10d", "lead: 240", "demo.yaml:16: drift.lead: 240 is not a duration; write it as 90min, 48h or 10d"),
        ("cutoff: none", "name: x", "demo.yaml:11: observations.1.cutoff: this key is required"),
        ("start: 2024-01-04T00", "start: 2024-01-04T03", "demo.yaml:4: start: 2024-01-04T03 is not a cycle time"),
        ("end: 2024-01-18T00", "end: 2024-01-03T00", "end 20240103T00 is before start 20240104T00"),
        ("{lagged: 48h}", "{lagged: 48h, climatology: true}", "demo.yaml:6: cold_start: give exactly one of"),
        ("{lagged: 48h}", "{lagged: 7h}", "demo.yaml:6: cold_start.lagged: a lagged start is a multiple of 6h"),
        ("{lagged: 48h}", "{from: demo}", "demo.yaml:6: cold_start.from: 'demo' is not EXPERIMENT@TIME"),
        ("{lagged: 48h}", "{from: a@2024-01-02T00}", "after a@20240102T00 comes 20240102T06"),
        ("{lagged: 48h}", "{lagged: 48h", "demo.yaml:7: not valid YAML"),
        ("seed: 1", "seed: -1", "demo.yaml:17: seed: Input should be greater than or equal to 0"),
    ],
)
def test_a_complaint_names_line_key_and_remedy(old, new, expected):
    assert expected in complaint(old, new)


def test_all_problems_are_reported_at_once():
    lines = complaint("world: demonstration\ngrid:", "wolrd: demonstration\ngird:").splitlines()
    assert [line.split(": ")[1] for line in lines if "unknown" in line] == ["wolrd", "gird"]
    assert len(lines) == 4


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ExperimentError, match=r"nothing\.yaml: there is no such"):
        load_experiment(tmp_path / "nothing.yaml")


def test_what_is_written_reads_back_the_same():
    experiment = parse_experiment(GOOD, "demo.yaml")
    again = parse_experiment(write_experiment(experiment.as_dict()), "copy.yaml")
    assert again == experiment
    assert again.digest == experiment.digest


@pytest.mark.parametrize(
    "time", ["20240104T00", "2024-01-04", "2024-01-04T00:00:00", "2024-01-04T00:00Z", "2024-01-04 00:00:00"]
)
def test_times_may_be_written_in_several_ways(time):
    other = parse_experiment(GOOD.replace("2024-01-04T00", time), "demo.yaml")
    assert other == parse_experiment(GOOD, "demo.yaml")


def test_only_the_end_may_change_without_being_another_experiment():
    experiment = parse_experiment(GOOD, "demo.yaml")
    longer = parse_experiment(GOOD.replace("2024-01-18", "2024-02-18"), "demo.yaml")
    live = parse_experiment(GOOD.replace("end: 2024-01-18T00\n", ""), "demo.yaml")
    other = parse_experiment(GOOD.replace("cutoff: 3h", "cutoff: 4h").replace("limit: 5", "limit: 6"), "demo.yaml")
    assert experiment.digest == longer.digest == live.digest != other.digest
    assert differences(experiment, longer) == {}
    assert set(differences(experiment, other)) == {"guards.increment_limit", "observations"}


def test_checks_that_nobody_asked_for_are_not_part_of_an_experiment():
    """So archives from before there were any hold the same experiments."""
    plain = parse_experiment(GOOD, "demo.yaml")
    usual = parse_experiment(GOOD + "quality: {background_check: 3.4, buddy_check: null}\n", "demo.yaml")
    strict = parse_experiment(GOOD + "quality: {buddy_check: 4, blacklist: bad.csv}\n", "demo.yaml")
    assert "quality" not in plain.as_dict()
    assert plain.digest == usual.digest != strict.digest
    assert differences(plain, strict) == {
        "quality.blacklist": (None, "bad.csv"),
        "quality.buddy_check": (None, 4.0),
    }
    assert parse_experiment(write_experiment(strict.as_dict()), "copy.yaml") == strict


def test_the_free_run_differs_only_in_what_makes_it_one():
    experiment = parse_experiment(GOOD, "demo.yaml")
    free = experiment.free_run()
    assert set(differences(experiment, free)) == {"assimilator", "drift.free_run", "name"}
    assert (free.name, free.assimilator) == ("demo-free", "none")


def test_a_key_that_is_not_used_leaves_the_digest_as_it_was_before_the_key_existed():
    digest = "9f25a2f367c96e725e7227c9e06c5a7cae4ea8dbdb162937858152cf3ea395b6"
    assert load_experiment(Path(__file__).parents[2] / "deploy/experiments/three-months.yaml").digest == digest


def test_frames_are_the_newest_or_both_with_a_share():
    assert parse_experiment(f"{GOOD}frames: newest\n", "a.yaml").digest == parse_experiment(GOOD, "a.yaml").digest
    for text, share in (("both", 1.0), ("{both: 0.5}", 0.5)):
        experiment = parse_experiment(f"{GOOD}frames: {text}\n", "a.yaml")
        assert experiment.frames == share
        assert parse_experiment(write_experiment(experiment.as_dict()), "copy.yaml") == experiment
    for text in ("older", "{both: 0}", "{both: 1.5}", "{newest: 1}", "true"):
        with pytest.raises(ExperimentError, match=r"a.yaml:\d+: frames: .*newest, both"):
            parse_experiment(f"{GOOD}frames: {text}\n", "a.yaml")


def test_errors_from_a_file_are_frozen_with_the_experiment(tmp_path):
    path = tmp_path / "errors.yaml"
    path.write_text("t2m: {representativeness: 1}\nstations:u10: {instrument: 0.5}\n")
    experiment = parse_experiment(f"{GOOD}errors: {path}\n", "demo.yaml")
    path.write_text("t2m: {representativeness: 2}\n")
    again = parse_experiment(write_experiment(experiment.as_dict()), "copy.yaml")
    assert again == experiment
    changed = differences(experiment, parse_experiment(f"{GOOD}errors: {path}\n", "demo.yaml"))
    assert set(changed) == {"errors.t2m.representativeness", "errors.stations:u10.instrument"}
    assert again.error_table().model("stations", "u10").instrument == 0.5
    assert again.error_table().model("other", "u10").instrument == 0.7


def test_ships_and_aircraft_have_errors_of_their_own():
    ships = "{source: marine_bufr, name: ships, path: ships, cutoff: 3h}"
    aircraft = "{source: prepbufr, name: planes, reports: aircraft, path: gdas, cutoff: none}"
    text = GOOD.replace("observations:\n", f"observations:\n  - {ships}\n  - {aircraft}\n")
    errors = parse_experiment(text, "demo.yaml").error_table()
    assert errors.model("ships", "msl") == KINDS["marine"]["msl"]
    assert errors.model("planes", "t") == KINDS["aircraft"]["t"]
    assert errors.model("stations", "msl") == ERRORS["msl"]


def test_unknown_errors_are_refused():
    assert "demo.yaml:17: errors: t2n is no VARIABLE" in complaint("seed: 1", "errors: {t2n: {instrument: 1}}\nseed: 1")
    text = GOOD.replace(", network: list.csv", "") + "errors: {'synop:t2m': {instrument: 1}}\n"
    experiment = parse_experiment(text, "demo.yaml")
    with pytest.raises(ExperimentError, match="errors: 'synop:t2m' is of no source of this experiment"):
        load_inputs(experiment)


@given(st.integers(0, 10_000), st.sampled_from([("min", 1), ("h", 60), ("d", 1440)]))
def test_durations_have_units(count, unit):
    assert parse_duration(f"{count}{unit[0]}").total_seconds() == count * unit[1] * 60


@given(st.one_of(st.integers(), st.floats(), st.none(), st.from_regex(r"[0-9]*( h|hours|H|)", fullmatch=True)))
def test_durations_without_a_known_unit_are_refused(value):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(value)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "deploy/experiments").glob("*.yaml")), ids=str)
def test_the_packaged_experiments_are_sound(path: Path) -> None:
    experiment = load_experiment(path)
    if experiment.world == "demonstration":  # the others name what no checkout holds
        load_inputs(experiment)


def test_guards_of_earlier_versions_are_read_without_their_unit():
    """Archives hold `background_error` beside every limit in the climate's standard deviations."""
    old = parse_experiment(GOOD.replace("{increment_limit: 5}", "{increment_limit: 5, background_error: 0.3}"), "demo")
    assert old.guards == parse_experiment(GOOD.replace("guards: {increment_limit: 5}\n", ""), "demo").guards


def test_withheld_regions_are_a_share():
    assert parse_experiment(GOOD + "withhold_regions: 0.05\n", "demo").withhold_regions == 0.05
    assert "withhold_regions" not in parse_experiment(GOOD, "demo").as_dict()
    with pytest.raises(ExperimentError, match="withhold_regions"):
        parse_experiment(GOOD + "withhold_regions: 1.0\n", "demo")


def test_the_tuning_of_a_method_is_part_of_its_experiment_and_survives_a_file():
    plain = parse_experiment(GOOD, "demo.yaml")
    tuned = parse_experiment(GOOD + "tuning: {inflation: 0.3, shift: 11.25, block: 2}\n", "demo.yaml")
    assert "tuning" not in plain.as_dict()
    assert tuned.as_dict()["tuning"] == {"inflation": 0.3, "shift": 11.25, "block": 2}
    assert parse_experiment(write_experiment(tuned.as_dict()), "again.yaml") == tuned
    assert "tuning" not in tuned.free_run().as_dict()
    method = load_inputs(tuned.model_copy(update={"observations": ()})).assimilator
    assert (method.tuning.inflation, method.tuning.distance_km, method.tuning.block) == (0.3, 3000, 2)
    with pytest.raises(ExperimentError, match=r"tuning\.distance_km: .* less than or equal to 20015"):
        parse_experiment(GOOD + "tuning: {distance_km: 30000}\n", "demo.yaml")
    with pytest.raises(ExperimentError, match="tuning goes with oi"):
        load_inputs(tuned.model_copy(update={"assimilator": "fnp"}))
