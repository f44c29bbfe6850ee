"""Studies: their trials, that they go on where they stopped, and their table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dacycle.common.configuration import write_yaml
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.sweep.run import plan_study, run_study
from dacycle.cycler.sweep.study import StudyError, load_study, trials_of
from dacycle.cycler.sweep.table import make_table, markdown
from dacycle.cycler.verification.cycles import verify
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def base(world, tmp_path_factory):
    """Return the content of an experiment of four cycles with optimal interpolation, and the folder of its files."""
    folder = tmp_path_factory.mktemp("experiment")
    static = replays.with_members(folder, load_world(world.folder))["ensemble"]["static"]
    content = replays.content(world.folder, world.model, folder, assimilator=static)
    return content | {"drift": {"starts": [0], "lead": "24h", "free_run": False}}


def write_study(folder, base, **changes):
    """Write an experiment and a study of it with two trials of optimal interpolation and one run without."""
    (folder / "base.yaml").write_text(write_yaml(base))
    content = {
        "experiment": str(folder / "base.yaml"),
        "archive": str(folder / "archive"),
        "methods": [
            {"name": "oi", "grid": {"tuning.inflation": [0.5, 0.8]}},
            {"name": "none", "set": {"assimilator": "none"}},
        ],
        "spin_up": "6h",
        "baseline": "oi",
        "unequal": True,
        **changes,
    }
    path = folder / "small.yaml"
    path.write_text(write_yaml({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """Return the file of a study that has been run by the command."""
    folder = tmp_path_factory.mktemp("study")
    path = write_study(folder, base)
    ran = CliRunner().invoke(app, ["sweep", str(path), "--out", str(folder / "out")], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "3 of 3 runs are complete" in ran.output
    return path


def commits(study):
    """Return all commits of an archive, by branch."""
    states = Archive(study.archive).states
    return {name: [commit.id for commit in states.commits(name)] for name in Archive(study.archive).branches()}


def test_each_trial_is_a_branch_that_says_what_was_set(finished):
    study = load_study(finished)
    trials = trials_of(study, "small")
    assert [trial.name for trial in trials] == ["oi (tuning.inflation 0.5)", "oi (tuning.inflation 0.8)", "none"]
    assert Archive(study.archive).branches() == ["small-none", "small-oi-inflation-0.5", "small-oi-inflation-0.8"]
    branch = Archive(study.archive).branch("small-oi-inflation-0.8")
    assert branch.experiment.tuning.inflation == 0.8
    assert len(branch.times) == 6


def test_the_table_holds_errors_over_the_baselines_and_paired_changes(finished):
    study = load_study(finished)
    table = make_table(study, "small", trials_of(study, "small"))
    archive = Archive(study.archive)
    errors = {
        name: verify(branch := archive.branch(f"small-{name}"), load_world(branch.experiment.world))
        .errors.query("kind == 'analysis' and region == 'globe' and time > '2024-01-03T12'")
        .pivot(index="time", columns="channel", values="mse")[list(HEADLINE)]
        for name in ("oi-inflation-0.5", "oi-inflation-0.8", "none")
    }
    unit = errors["oi-inflation-0.5"].mean()
    for row, of_trial in zip(table.rows, errors.values(), strict=True):
        assert len(of_trial) == table.cases[""] == 3
        assert row.ratio == pytest.approx(np.sqrt(of_trial.mean() / unit).mean())
        assert row.ratios["z500"] == pytest.approx(np.sqrt(of_trial["z500"].mean() / unit["z500"]))
    first, _, last = table.rows
    assert (first.ratio, np.isnan(first.change)) == (1, True)
    assert last.change == pytest.approx((errors["none"] / unit).mean(axis=1).mean() - 1)
    assert last.best
    assert sum(row.best for row in table.rows) == 2
    assert first.seconds > first.analysis > 0
    stored = json.loads((finished.parent / "out/table.json").read_text())[0]
    assert stored["rows"][0]["change"] is None, "JSON has no NaN"
    assert (finished.parent / "out/table.md").read_text() == markdown(table)
    assert "Compared cycles: 3." in markdown(table)


def test_a_finished_study_is_not_run_again(finished):
    study = load_study(finished)
    before = commits(study)
    run_study(study, trials_of(study, "small"))
    assert commits(study) == before


def test_a_further_trial_is_added_to_what_is_there(finished, base, tmp_path):
    study = load_study(finished)
    methods = [{"name": "oi", "grid": {"tuning.inflation": [0.5, 0.65, 0.8]}}]
    (tmp_path / "small.yaml").write_text(write_yaml(load(write_study(tmp_path, base)) | {"methods": methods}))
    more = load_study(tmp_path / "small.yaml").model_copy(update={"archive": study.archive})
    table = make_table(more, "small", trials_of(more, "small"))
    assert table.missing == ["oi (tuning.inflation 0.65)"]
    assert [row.trial for row in table.rows] == ["oi (tuning.inflation 0.5)", "oi (tuning.inflation 0.8)"]
    assert "Left out, with no or few cases so far: oi (tuning.inflation 0.65)." in markdown(table)


def load(path):
    from ruamel.yaml import YAML

    return dict(YAML(typ="safe").load(path.read_text()))


def test_a_trial_whose_settings_have_changed_is_refused(finished, base, tmp_path):
    changed = load_study(write_study(tmp_path, base | {"seed": 7}))
    changed = changed.model_copy(update={"archive": load_study(finished).archive})
    with pytest.raises(ArchiveError, match="has changed since its first cycle"):
        run_study(changed, trials_of(changed, "small"))


def test_a_killed_study_goes_on_and_ends_as_one_that_was_not(finished, base, tmp_path):
    path = write_study(tmp_path, base)
    command = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()", "sweep", str(path)]
    command += ["--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, cwd=tmp_path) as process:
        wait_for(lambda: len(held(tmp_path / "archive", "small-oi-inflation-0.5")) >= 4, process)
        process.send_signal(signal.SIGKILL)
    study = load_study(path)
    kept = held(study.archive, "small-oi-inflation-0.5")
    assert len(kept) < 6 or "small-none" not in Archive(study.archive).branches()
    done = subprocess.run([*command, "--workers", "2"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(kept) <= set(held(study.archive, "small-oi-inflation-0.5")), "no cycle was run again"
    whole = load_study(finished).archive
    for name in ("small-oi-inflation-0.5", "small-oi-inflation-0.8", "small-none"):
        assert replays.everything(study.archive, name) == replays.everything(whole, name)


def held(archive, name):
    """Return the commits of a branch."""
    if not (archive / "states.icechunk/refs" / f"branch.{name}" / "ref.json").is_file():
        return []
    return [commit.id for commit in Archive(archive).states.commits(name)]


def wait_for(condition, process):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, "it has ended too early"
        time.sleep(0.05)
    raise AssertionError("it takes too long")


def test_forecasts_are_judged_by_day_and_runs_are_joined(base, tmp_path):
    runs = {"a": {"seed": 1}, "b": {"seed": 2}}
    methods = [{"name": "oi"}, {"name": "none", "set": {"assimilator": "none"}}]
    path = write_study(
        tmp_path, base, runs=runs, methods=methods, metric="day 1", forecasts=True, spin_up="0h", unequal=None
    )
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, ["sweep", str(path), "--out", str(out), "--json"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    study = load_study(path)
    tables = json.loads((out / "table.json").read_text())
    assert [table["metric"] for table in tables] == ["day 1", "day 3", "day 5", "day 10"]
    assert tables[0]["cases"] == {"a": 1, "b": 1}
    assert tables[1]["rows"] == []
    names = ["small-none-a", "small-none-b", "small-oi-a", "small-oi-b"]
    assert Archive(study.archive).branches() == names
    assert "starts of forecasts: 1 a, 1 b" in (out / "table.md").read_text()


def test_runs_of_other_observations_have_tables_of_their_own(base, tmp_path):
    runs = {"stations": {}, "none at all": {"deny": ["stations"]}}
    path = write_study(tmp_path, base, runs=runs, separate=True, unequal=None, methods=[{"name": "oi"}])
    command = ["sweep", str(path), "--out", str(tmp_path / "out"), "--until", "20240103T18"]
    ran = CliRunner().invoke(app, command, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    tables = json.loads((tmp_path / "out/table.json").read_text())
    assert [table["study"] for table in tables] == ["small, stations", "small, none at all"]
    assert [table["cases"] for table in tables] == [{"stations": 1}, {"none at all": 1}]
    study = load_study(path)
    run_study(study, trials_of(study, "small"))
    assert len(Archive(study.archive).branch("small-oi-none-at-all").times) == 6


def test_a_run_that_is_stopped_stops_no_other(base, tmp_path):
    nervous = {"guards.increment_limit": 1e-6, "guards.fallbacks_in_a_row": 0}
    methods = [{"name": "nervous", "set": nervous}, {"name": "oi"}]
    path = write_study(tmp_path, base, methods=methods, unequal=None)
    ran = CliRunner().invoke(app, ["sweep", str(path), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "stopped: experiment small-nervous: 1 cycles in a row fell back" in ran.output
    assert "1 of 2 runs are complete" in ran.output
    table = json.loads((tmp_path / "out/table.json").read_text())[0]
    assert (table["missing"], table["cases"]) == (["nervous"], {"": 3})


def test_a_plan_counts_and_measures_and_writes_nothing(finished, tmp_path, base):
    study = load_study(write_study(tmp_path, base))
    outlook = plan_study(study, trials_of(study, "small"))
    assert (outlook.trials, outlook.cycles, outlook.done) == ({"oi": 2, "none": 1}, 12, 0)
    assert outlook.seconds > 0
    assert outlook.by_method["oi"].bytes > 100_000
    assert not study.archive.exists()
    done = CliRunner().invoke(app, ["sweep", str(finished), "--plan"], catch_exceptions=False)
    assert "12 cycles, of which 12 are in the archive" in done.output


def test_what_trials_name_alike_is_loaded_once(finished):
    first, second, none = (trial.experiments[""] for trial in trials_of(load_study(finished), "small"))
    inputs = load_inputs(first)
    again = load_inputs(second, like=inputs)
    assert (again.model is inputs.model, again.sources is inputs.sources) == (True, True)
    assert again.assimilator is not inputs.assimilator
    assert load_inputs(first, like=inputs).assimilator is inputs.assimilator
    assert load_inputs(none.model_copy(update={"seed": 9}), like=inputs).sources is not inputs.sources


def test_no_trial_has_settings_of_another(base, tmp_path):
    """Two methods share a mapping (`*numbers`), and each trial changes one of its entries."""
    numbers = {"inflation": 0.5, "distance_km": 2000.0}
    trials = [{}, {"tuning.inflation": 0.8}, {"tuning.distance_km": 3000.0}]
    methods = [{"name": name, "set": {"tuning": numbers}, "trials": trials} for name in ("oi", "same")]
    found = trials_of(load_study(write_study(tmp_path, base, methods=methods)), "small")
    tunings = [trial.experiments[""].tuning for trial in found]
    expected = [(0.5, 2000), (0.8, 2000), (0.5, 3000)] * 2
    assert [(tuning.inflation, tuning.distance_km) for tuning in tunings] == expected


STUDIES = [path for path in sorted((ROOT / "deploy/studies").glob("*.yaml")) if path.stem != "knobs"]  # see below


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_that_come_with_it_make_experiments(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert trials_of(load_study(path), path.stem)


def test_the_study_of_knobs_has_each_number_a_factor_of_one_and_a_half_down_and_up(monkeypatch):
    monkeypatch.chdir(ROOT)
    factors = {}
    for trial in trials_of(load_study(Path("deploy/studies/knobs.yaml")), "knobs"):
        content = next(iter(trial.experiments.values())).as_dict()
        if not trial.settings:
            first = content
        for key in trial.settings:
            group, name = key.split(".")
            factors.setdefault((trial.method, key), []).append(content[group][name] / first[group][name])
            others = content | {"name": first["name"], group: content[group] | {name: first[group][name]}}
            assert others == first
    assert factors.pop(("letkf", "ensemble.members")) == pytest.approx([1 / 1.5], rel=0.02)  # 120 are not to be had
    for (_, key), found in factors.items():
        highest = 1.1 if key == "ensemble.static_share" else 1.5  # of 0.9, where it has to be below 1
        assert found == pytest.approx([1 / 1.5, highest], rel=0.02)
    assert {method for method, _ in factors} == {"oi", "3dvar", "4dvar", "letkf", "hybrid"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"unequal": None}, "methods: the numbers of trials differ (oi 2, none 1)"),
        ({"baseline": "io"}, "baseline: 'io' is none of the methods oi, none"),
        ({"metric": "day 3"}, "metric: day 3 needs `forecasts: true`"),
        ({"metric": "day 11"}, ": metric: String should match pattern"),
        ({"methds": []}, "methds: unknown key; did you mean methods?"),
        ({"methods": [{"name": "oi"}, {"name": "oi"}]}, "methods: two are called oi"),
        ({"methods": [{"name": "oi", "grid": {"seed": []}}]}, "grid: seed has no value"),
        ({"methods": [{"name": "oi", "grid": {"seed": [1]}, "trials": [{"seed": 2}]}]}, "give a grid or trials"),
    ],
)
def test_a_file_with_a_mistake_is_refused(base, tmp_path, changes, expected):
    with pytest.raises(StudyError) as caught:
        load_study(write_study(tmp_path, base, **changes))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"tunning.inflation": [1]}, "tunning: unknown key; did you mean tuning?"),
        ({"seed": [-1]}, "seed: Input should be greater than or equal to 0"),
        ({"seed.x": [1]}, "seed.x: seed is no mapping"),
        ({"seed": [1, 1]}, "are both called"),
        ({"withhold": [f"0.{'1' * 90}"]}, "is too long for a name"),
    ],
)
def test_settings_that_make_no_experiment_are_refused(base, tmp_path, setting, expected):
    study = load_study(write_study(tmp_path, base, methods=[{"name": "oi", "grid": setting}]))
    with pytest.raises(StudyError) as caught:
        trials_of(study, "small")
    assert expected in str(caught.value)
