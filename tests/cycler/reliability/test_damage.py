"""What is read from an archive is what was written, or an error says which file is damaged and what to do.

A few bytes are changed here. Five hundred are changed by

    FLIPS=500 make test ARGS="-m trial tests/cycler/reliability/test_damage.py -n0"
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dacycle.cycler.archive.branches import Archive, ArchiveError, open_experiment
from dacycle.cycler.archive.store import Store
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import make_forecasts, read_scores
from dacycle.forecast_adapter.models.model import load_model
from tests.cycler.runs import make_run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny, world) -> Path:
    """Return a run of three cycles with a forecast and tables, only to read."""
    model = load_model(world.model)
    branch = make_run(tmp_path_factory.mktemp("run") / "archive", tiny, cycles=3, model_digest=model.digest)
    assert len(list(make_forecasts(branch, tiny, model))) == 2
    verify(branch, tiny)
    return branch.archive.folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "archive"))


def read(archive: Path) -> None:
    branch = open_experiment(archive, "run")
    assert branch.records
    assert branch.experiment
    read_scores(branch)


def change(path: Path, at: int = -20) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x11
    path.write_bytes(content)


@pytest.mark.parametrize(
    "file", ["branches/run/experiment.yaml", "states.icechunk/config.yaml", "branches/run/drift/20240102T00.parquet"]
)
def test_a_changed_file_is_named_with_the_way_out(run, file):
    change(run / file)
    with pytest.raises(ArchiveError, match=rf"{file}.* (is damaged|cannot be read)") as caught:
        read(run)
    assert any(way in str(caught.value) for way in ("restore it from a copy", "run `dacycle drift run` again"))


@pytest.mark.parametrize("kind", ["snapshots", "manifests"])
def test_icechunks_own_files_are_checked_before_they_are_read(run, kind):
    branch = open_experiment(run, "run")
    commit = next(branch.archive.states.commits("run"))
    name = commit.id if kind == "snapshots" else commit.manifests[0].id
    change(run / f"states.icechunk/{kind}/{name}")
    with pytest.raises(ArchiveError, match=f"{kind}/{name} is damaged; .*restore it from a copy of the archive"):
        assert open_experiment(run, "run").records


@pytest.mark.parametrize(
    "pattern",
    ["forecasts.icechunk/snapshots/*", "forecasts.icechunk/manifests/*", "forecasts.icechunk/chunks/*",
     "forecasts.icechunk/transactions/*", "branches/run/drift/*.parquet", "branches/run/verification/*.parquet",
     "shared/drift/*.parquet"],
)  # fmt: skip
def test_the_check_reads_forecasts_and_tables_too(run, pattern):
    assert open_experiment(run, "run").damaged() == []
    for path in sorted(run.glob(pattern)):
        content = path.read_bytes()
        change(path, len(content) // 2)
        assert any(
            path.name in sentence or "forecasts" in sentence for sentence in open_experiment(run, "run").damaged()
        )
        path.write_bytes(content)


def test_commits_without_seals_are_read_as_before_and_sealed_with_the_next(run, tiny):
    """As in archives of older versions."""
    before = [record.to_json() for record in open_experiment(run, "run").records]
    shutil.rmtree(run / "states.icechunk/seals")
    path = run / "branches/run/experiment.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("# sha256")))
    branch = open_experiment(run, "run")
    assert [record.to_json() for record in branch.records] == before
    assert branch.experiment.name == "run"
    digest = branch.records[-1].digests["model"]
    make_run(run, tiny, cycles=4, model_digest=digest)
    assert path.read_text().splitlines()[-1].startswith("# sha256")
    (seal,) = (run / "states.icechunk/seals").iterdir()
    manifest = next(line.split("  ")[1] for line in seal.read_text().splitlines() if "manifests/" in line)
    change(run / "states.icechunk" / manifest)
    with pytest.raises(ArchiveError, match="is damaged"):
        assert open_experiment(run, "run").records


def test_a_damaged_table_of_verification_is_computed_again(run, tiny, caplog):
    branch = open_experiment(run, "run")
    whole = verify(branch, tiny).fits.to_csv()
    change(run / "branches/run/verification/fits.parquet", 300)
    assert verify(branch, tiny).fits.to_csv() == whole
    assert "fits.parquet is damaged" in caplog.text


def test_a_store_that_was_left_half_made_is_made_again(tmp_path):
    """As an older version left it when it was killed."""
    (tmp_path / "archive/states.icechunk/refs/branch.main").mkdir(parents=True)
    (tmp_path / "archive/states.icechunk/config.yaml").write_text("")
    assert Archive(tmp_path / "archive", create=True).branches() == []
    assert [path.name for path in (tmp_path / "archive").iterdir() if path.name.startswith(".")] == []


def test_reading_makes_no_store(run, tiny):
    shutil.rmtree(run / "forecasts.icechunk")
    branch = open_experiment(run, "run")
    assert read_scores(branch).empty
    assert branch.archive.forecasts.branches() == []
    assert not Store(run / "forecasts.icechunk").exists


READ = """
import sys
from pathlib import Path
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.report.page import write_report
from dacycle.forecast_adapter.worlds.world import load_world
branch = Archive(sys.argv[1]).branch("run")
write_report(branch, load_world(Path(sys.argv[2])), Path(sys.argv[3]))
try:
    Archive(sys.argv[1], create=True)
except ArchiveError as error:
    print(error)
"""


def _without_override() -> None:
    """Give up root's right to write where permissions forbid it (CAP_DAC_OVERRIDE, from the next program on)."""
    ctypes.CDLL(None).prctl(24, 1)


def test_an_archive_that_may_only_be_read_can_be_reported(run, world, tmp_path):
    shutil.rmtree(run / "forecasts.icechunk")
    shutil.rmtree(run / "branches/run/verification")
    before = sorted(run.rglob("*"))
    for path in [run, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = [sys.executable, "-c", READ, run, world.folder, tmp_path / "report.html"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_without_override)
    for path in [run, *before]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "report.html").stat().st_size > 10000
    assert "cannot be written: " in ended.stdout
    assert sorted(run.rglob("*")) == before


@pytest.mark.trial
def test_no_changed_byte_is_silent(finished):
    command = [sys.executable, HERE / "flips.py", finished, os.environ.get("FLIPS", "40"), "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    *bad, counts = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert [line for line in bad if line["outcome"] != "no effect"] == []
    assert sum(counts.values()) == int(os.environ.get("FLIPS", "40"))
