"""Cycles of an ensemble: what its members start from, what is kept of them, and what is refused or marked."""

from dataclasses import replace

import numpy as np
import pytest

from dacycle.assimilators.ensemble.algebra import spread
from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, ExperimentError
from dacycle.forecast_adapter.channels import GROUPS, NAMES, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays


@pytest.fixture(scope="module")
def content(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    members = replays.with_members(folder, load_world(str(world.folder)), additive=0.0)
    return replays.content(world.folder, world.model, folder, **members)


@pytest.fixture(scope="module")
def run(content, tmp_path_factory):
    """Return the archive of a finished run of four cycles."""
    folder = tmp_path_factory.mktemp("run") / "archive"
    run_due_cycles(replays.experiment(content), Archive(folder, create=True))
    return folder


def changed(content, **settings):
    return content | {"ensemble": content["ensemble"] | settings}


def test_the_background_is_the_mean_of_the_forecasts_of_stored_members(run, world):
    branch, model = open_experiment(run, "demo"), load_model(world.model)
    for time in branch.times[4:]:
        frames = [branch.frame(time - lag) + branch.members(time - lag) for lag in (2 * STEP, STEP)]
        for frame in frames:
            frame[:, GROUPS["q"]] = np.maximum(frame[:, GROUPS["q"]], 0)
        forecasts = next(iter(model.forecast(*frames, 1)))
        background = branch.state("background", time).values
        np.testing.assert_allclose(background, forecasts.mean(axis=0), rtol=1e-6, atol=1e-6)
        record = next(r for r in branch.records if r.time == time)
        of_members = np.sqrt((spread(forecasts - background) ** 2 * branch.grid.weights).mean(axis=(1, 2)))
        np.testing.assert_allclose([record.background_spread[name] for name in NAMES], of_members, rtol=1e-3)


def test_a_smoothed_older_frame_starts_the_next_forecast(content, tmp_path, world):
    experiment = replays.experiment(content | {"frames": "smoothed"})
    run_due_cycles(experiment, Archive(tmp_path / "archive", create=True))
    branch, model = open_experiment(tmp_path / "archive", "demo"), load_model(world.model)
    frames = StoredFrames(branch)
    for time in branch.times[3:]:
        older, newer = frames.pair(time - STEP)
        members = [older + branch.smoothed_members(time - STEP), newer + branch.members(time - STEP)]
        for frame in members:
            frame[:, GROUPS["q"]] = np.maximum(frame[:, GROUPS["q"]], 0)
        background = next(iter(model.forecast(*members, 1))).mean(axis=0)
        np.testing.assert_allclose(branch.state("background", time).values, background, rtol=1e-6, atol=1e-6)
    older, newer = frames.pair(branch.times[2])
    np.testing.assert_array_equal(older, branch.smoothed(branch.times[2]))
    assert not np.array_equal(older, branch.frame(branch.times[1]))


def test_without_observations_the_older_frame_stays(content, tmp_path):
    denied = {"deny": ["stations"], "guards": {**content["guards"], "minimum_observations": 1}, "frames": "smoothed"}
    archive = Archive(tmp_path / "archive", create=True)
    run_due_cycles(replays.experiment(content | denied), archive, limit=1)
    branch = archive.branch("demo")
    np.testing.assert_array_equal(branch.smoothed(branch.times[2]), branch.frame(branch.times[1]))


def test_members_are_kept_around_the_analysis_in_the_schema_of_a_state(run):
    branch = open_experiment(run, "demo")
    kept = branch.archive.states.dataset("demo", "members")
    assert kept["geopotential"].dims == ("time", "member", "level", "latitude", "longitude")
    assert kept["geopotential"].attrs["units"] == "m2 s-2"
    assert kept.sizes["member"] == 8
    members = branch.members(branch.times[-1])
    np.testing.assert_array_equal(kept["temperature"].sel(level=850).values[-1], members[:, index("t850")])
    assert np.abs(members.mean(axis=0)).max() < 1e-3 * np.abs(members).max()
    assert branch.members(branch.times[0]) is None, "what the first forecast starts from is drawn again"


def test_the_analysis_is_nearer_to_the_truth(run, world):
    branch, reference = open_experiment(run, "demo"), load_world(str(world.folder)).reference
    for time in branch.times[2:]:
        truth = reference.array(np.datetime64(time, "h"))
        before, after = (
            np.sqrt(np.square(branch.state(group, time).values - truth).mean(axis=(1, 2)))
            for group in ("background", "analysis")
        )
        assert after[index("t2m")] < before[index("t2m")]
        assert after[index("msl")] < before[index("msl")]


def test_a_run_without_members_has_no_group_of_them(content, tmp_path):
    plain = {key: value for key, value in content.items() if key != "ensemble"} | {"assimilator": "nudge"}
    run_due_cycles(replays.experiment(plain), Archive(tmp_path / "archive", create=True), limit=1)
    branch = open_experiment(tmp_path / "archive", "demo")
    assert len(branch.archive.states.times("demo", "members")) == 0
    assert "spread" not in branch.records[-1].to_json()


def test_the_seed_decides_the_members(content, tmp_path):
    states = []
    for seed in (1, 1, 2):
        folder = tmp_path / str(len(states))
        experiment = replays.experiment(changed(content | {"seed": seed}, additive=0.1))
        run_due_cycles(experiment, Archive(folder, create=True), limit=2)
        branch = open_experiment(folder, "demo")
        states.append(branch.members(branch.times[-1]).tobytes())
    assert states[0] == states[1] != states[2]


def test_forks_go_on_from_the_members_or_draw_the_first(content, run, tmp_path):
    archive, name = Archive(run), "cold_start"
    time = archive.branch("demo").times[3]
    begin = {name: {"from": f"demo@{time:%Y%m%dT%H}"}, "start": f"{time + STEP:%Y-%m-%dT%H}"}
    refused = pytest.raises(ExperimentError, match=r"members is 9, but the analysis \w+ of its past has 8")
    with refused:
        run_due_cycles(replays.experiment(changed(content, members=9) | begin | {"name": "nine"}), archive)
    run_due_cycles(replays.experiment(content | begin | {"name": "same"}), archive, limit=1)
    np.testing.assert_array_equal(*(archive.branch(b).members(time + STEP) for b in ("demo", "same")))
    plain = {key: value for key, value in content.items() if key != "ensemble"} | {"assimilator": "nudge"}
    run_due_cycles(replays.experiment(plain | begin | {"name": "plain"}), archive)
    later = archive.branch("plain").times[-2]
    back = {name: {"from": f"plain@{later:%Y%m%dT%H}"}, "start": f"{later + STEP:%Y-%m-%dT%H}", "name": "back"}
    drawn = replays.experiment(content | back)
    run_due_cycles(drawn, archive, limit=1)
    branch, inputs = archive.branch("back"), load_inputs(drawn)
    assert branch.members(later + STEP) is not None
    assert branch.members(later) is None
    assert branch.members(later - STEP) is not None, "of another ensemble, and not used"
    first = inputs.assimilator.first_members(np.random.default_rng([1, int(drawn.start.timestamp()) // 3600, 0]))
    frames = [branch.frame(time) + first for time in (later - STEP, later)]
    for frame in frames:
        frame[:, GROUPS["q"]] = np.maximum(frame[:, GROUPS["q"]], 0)
    expected = next(iter(inputs.model.forecast(*frames, 1))).mean(axis=0)
    np.testing.assert_allclose(branch.state("background", later + STEP).values, expected, rtol=1e-6, atol=1e-6)
    with refused:
        run_due_cycles(replays.experiment(changed(content, members=9) | back | {"name": "nine-more"}), archive)


class Failing:
    """A model whose forecast of member 3 has this temperature in one call; the first is of the cold start."""

    def __init__(self, model, call, temperature):
        self._model, self._call, self._calls, self._temperature = model, call, 0, temperature

    def __getattr__(self, name):
        return getattr(self._model, name)

    def forecast(self, previous, current, steps):
        self._calls += 1
        for states in self._model.forecast(previous, current, steps):
            if self._calls == self._call:
                states[2, index("t850"), 5, 5] = self._temperature
            yield states


@pytest.mark.parametrize("temperature", [900, np.nan])
def test_a_member_out_of_range_gets_the_mean_of_the_others_and_marks_the_cycle(content, tmp_path, temperature):
    experiment = replays.experiment(changed(content, members=16))
    inputs = load_inputs(experiment)
    time = experiment.start + 2 * STEP
    archive = Archive(tmp_path / "archive", create=True)
    run_due_cycles(experiment, archive, inputs=replace(inputs, model=Failing(inputs.model, 4, temperature)))
    branch = archive.branch("demo")
    records = branch.records[2:]
    assert [record.status for record in records] == ["ok", "ok", "degraded", "ok"]
    assert "forecast of member 3" in records[2].reason
    assert "t850" in records[2].reason
    assert "mean of the others" in records[2].reason
    frames = [branch.frame(time - lag) + branch.members(time - lag) for lag in (2 * STEP, STEP)]
    for frame in frames:
        frame[:, GROUPS["q"]] = np.maximum(frame[:, GROUPS["q"]], 0)
    others = np.delete(next(iter(inputs.model.forecast(*frames, 1))), 2, axis=0)
    background = branch.state("background", time).values
    np.testing.assert_allclose(background, others.mean(axis=0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [900, np.nan])
def test_with_more_than_a_tenth_out_of_range_the_ensemble_is_drawn_anew(content, tmp_path, temperature):
    experiment = replays.experiment(content)
    inputs = load_inputs(experiment)
    inputs = replace(inputs, model=Failing(inputs.model, 4, temperature))
    archive = Archive(tmp_path / "archive", create=True)
    run_due_cycles(experiment, archive, inputs=inputs)
    records = archive.branch("demo").records[2:]
    assert [record.status for record in records] == ["ok", "ok", "fallback", "ok"]
    assert "1 of 8 members" in records[2].reason
    assert "forecast of member 3" in records[2].reason
    assert "t850" in records[2].reason


def test_an_ensemble_without_spread_is_marked(content, tmp_path):
    archive = Archive(tmp_path / "archive", create=True)
    experiment = replays.experiment(changed(content, rtps=0, additive=0, least_spread=0.9))
    run_due_cycles(experiment, archive, limit=2)
    record = archive.branch("demo").records[-1]
    assert record.status == "degraded"
    assert "the ensemble has collapsed" in record.reason


def test_without_observations_the_members_of_the_background_remain(content, run, tmp_path):
    denied = content | {"deny": ["stations"], "guards": {**content["guards"], "minimum_observations": 1}}
    archive = Archive(tmp_path / "archive", create=True)
    run_due_cycles(replays.experiment(denied), archive, limit=1)
    record = archive.branch("demo").records[-1]
    assert record.status == "degraded"
    assert record.analysis_spread == record.background_spread


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"member": 8}, "ensemble.member.*did you mean members"),
        ({"members": 1}, "ensemble.members"),
        ({"localisation_km": 30000}, "ensemble.localisation_km"),
        ({"static_share": 1.0}, "ensemble.static_share"),
        ({"members": 25}, "25 members, but the static ensemble .* has 24"),
        ({"static": "nowhere.nc"}, "nowhere.nc"),
    ],
)
def test_settings_are_refused_by_name(content, settings, message):
    with pytest.raises(ExperimentError, match=message):
        load_inputs(replays.experiment(changed(content, **settings)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assimilator": "oi", "ensemble": {"rtps": 0.9}}, r"ensemble\.rtps goes with hybrid and letkf, not with oi"),
        ({"assimilator": "oi", "frames": "smoothed", "ensemble": None}, "frames: smoothed goes with hybrid and letkf"),
        ({"assimilation_grid": "11.25deg"}, "hybrid has its members on the model's grid"),
    ],
)
def test_an_ensemble_is_refused_where_it_does_not_belong(content, changes, message):
    with pytest.raises(ExperimentError, match=message):
        replays.experiment(content | changes)


@pytest.mark.parametrize(("key", "value"), [("static_share", 0.5), ("members_share", 0.5), ("mix", "gain")])
def test_letkf_refuses_what_belongs_to_a_static_part(content, key, value):
    with pytest.raises(ExperimentError, match=rf"letkf has no static part: leave out ensemble\.{key}, or use hybrid"):
        load_inputs(replays.experiment(changed(content, **{key: value}) | {"assimilator": "letkf"}))


def test_experiments_name_their_ensemble_even_by_default(content):
    plain = {key: value for key, value in content.items() if key != "ensemble"}
    assert replays.experiment(plain).as_dict()["ensemble"]["members"] == 40
    assert replays.experiment(plain).digest == replays.experiment(plain | {"ensemble": {"members": 40}}).digest
    assert "ensemble" not in replays.experiment(plain | {"assimilator": "oi"}).as_dict()
    assert "ensemble" not in replays.experiment(content | {"drift": {}}).free_run().as_dict()
    other = replays.experiment(plain | {"assimilator": "nudge", "ensemble": {"members": 10}}).as_dict()["ensemble"]
    assert other == {"members": 10, "additive": 0.16, "static": "oi", "least_spread": 0.1}
    assert replays.experiment(plain).as_dict()["ensemble"]["additive"] == 0.14


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("letkf", None, {"localisation_km": 3000, "vertical_lnp": 1, "rtps": 0.281, "additive": 0.225}),
        ("letkf", {"vertical_lnp": "none", "rtps": 0.9}, {"vertical_lnp": "none", "rtps": 0.9, "additive": 0.225}),
        (
            "hybrid",
            None,
            {"localisation_km": 4500, "vertical_lnp": "none", "inflation": "adaptive", "static_share": 0.9},
        ),
        ("hybrid", {"inflation": "none"}, {"localisation_km": 4500, "inflation": "none"}),
        ("hybrid", {"mix": "gain"}, {"static_share": 0.5}),
        ("hybrid", {"mix": "gain", "static_share": 0.2}, {"static_share": 0.2}),
        ("nudge", {"members": 9}, {"members": 9, "additive": 0.16}),
    ],
)
def test_each_method_has_defaults_of_its_own_and_keeps_what_is_given(content, method, given, expected):
    plain = {key: value for key, value in content.items() if key != "ensemble"} | {"assimilator": method}
    experiment = replays.experiment(plain | ({} if given is None else {"ensemble": given}))
    stored = experiment.as_dict()
    assert stored["ensemble"].items() >= expected.items()
    again = replays.experiment(stored)
    assert (again.digest, again.as_dict()) == (experiment.digest, stored)


def nudged(content, **settings):
    """Return the experiment of an ensemble of a method's analyses."""
    members = {key: content["ensemble"][key] for key in ("members", "static")}
    return content | {"assimilator": "nudge", "ensemble": members | settings}


def test_the_chain_of_an_ensemble_of_analyses_is_that_without_members(content, tmp_path):
    plain = {key: value for key, value in nudged(content).items() if key != "ensemble"}
    branches = []
    for number, experiment in enumerate((plain, nudged(content))):
        archive = Archive(tmp_path / str(number), create=True)
        run_due_cycles(replays.experiment(experiment), archive)
        branches.append(archive.branch("demo"))
    alone, with_members = branches
    for time in alone.times:
        np.testing.assert_array_equal(alone.frame(time), with_members.frame(time))
    members = with_members.members(with_members.times[-1])
    assert members.shape[:2] == (8, len(NAMES))
    assert np.abs(members.mean(axis=0)).max() < 1e-3 * np.abs(members).max()
    record = with_members.records[-1]
    assert record.status == "ok"
    assert record.analysis_spread["t2m"] < record.background_spread["t2m"]
    assert record.analysis_spread["z500"] > 0


def test_an_ensemble_of_analyses_without_spread_is_marked(content, tmp_path):
    archive = Archive(tmp_path / "archive", create=True)
    run_due_cycles(replays.experiment(nudged(content, additive=0, least_spread=0.99)), archive, limit=2)
    assert "the ensemble has collapsed" in archive.branch("demo").records[-1].reason


def test_an_ensemble_of_no_analyses_is_refused(content):
    with pytest.raises(ExperimentError, match="without an assimilation there are no analyses"):
        load_inputs(replays.experiment(nudged(content) | {"assimilator": "none"}))
