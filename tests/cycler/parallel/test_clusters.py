"""Where independent pieces run: in this process, in processes beside it, or on a Dask cluster through prefect-dask."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from dacycle.common.pieces import Each, PieceError, in_processes, in_turn
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.experiment import load_experiment
from dacycle.cycler.operations import flows
from dacycle.cycler.parallel.clusters import Cluster, ClusterError, load_cluster, on_cluster, spread
from dacycle.cycler.parallel.streams import cut, join, run_stream
from tests.cycler import replays
from tests.cycler.parallel.test_streams import OVERLAP, write_experiment

FILES = Path(__file__).parents[3] / "deploy/dask"


def squared(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def refuse(number: int) -> None:
    raise ArchiveError(f"piece {number} is damaged")


def vanish() -> None:
    os._exit(9)


def check(each: Each, elsewhere: bool) -> None:
    found = dict(each(squared, [(n,) for n in range(5)]))
    assert {number: square for number, (square, _) in found.items()} == {n: n**2 for n in range(5)}
    assert (os.getpid() not in {process for _, process in found.values()}) == elsewhere
    with pytest.raises(ArchiveError, match="piece 3 is damaged"):
        list(each(refuse, [(3,)]))


def test_pieces_run_in_turn_or_in_processes_and_raise_their_errors():
    check(in_turn, elsewhere=False)
    with in_processes(2) as each:
        check(each, elsewhere=True)


def test_a_killed_process_is_told():
    with pytest.raises(PieceError, match="the same command goes on"), in_processes(2) as each:
        list(each(vanish, [()]))


def test_the_cluster_files_are_read_and_say_where_workers_go():
    described = {path.stem: load_cluster(path) for path in FILES.glob("*.yaml")}
    assert {name: cluster.cluster for name, cluster in described.items()} == {
        "local": "distributed.LocalCluster",
        "slurm": "dask_jobqueue.SLURMCluster",
        "kubernetes": "dask_kubernetes.operator.KubeCluster",
    }
    assert described["local"].arguments() == load_cluster(Path("local")).arguments()
    assert described["slurm"].arguments(3)["n_workers"] == 3


def test_an_unknown_key_and_missing_packages_are_told(tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("cluster: distributed.LocalCluster\nworker: 2\n")
    with pytest.raises(ClusterError, match=r"wrong.yaml:2: worker: .*workers"):
        load_cluster(wrong)
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with (
        pytest.raises(ClusterError, match=r"pip install 'dacycle\[dask\]'"),
        spread(2, Path("local"), tmp_path / "home"),
    ):
        pass


def test_a_cluster_of_a_package_that_is_not_there_is_told(tmp_path):
    pytest.importorskip("prefect_dask")
    cluster, file = Cluster(cluster="dask_jobqueue_of_tomorrow.Cluster", workers=1), Path("tomorrow.yaml")
    there_is_none = r"tomorrow\.yaml: .* pip install dask-jobqueue-of-tomorrow"
    with pytest.raises(ClusterError, match=there_is_none), on_cluster(cluster, 1, tmp_path, file):
        pass


class Refused:
    """A cluster whose scheduler does not let it in."""

    def __init__(self, **options: object) -> None:
        raise PermissionError("sbatch: Invalid account")


def test_a_cluster_that_does_not_start_is_told_whatever_it_raises(tmp_path, monkeypatch):
    pytest.importorskip("prefect_dask")
    monkeypatch.setattr(flows, "embedded_server", lambda home: nullcontext())
    file = tmp_path / "refused.yaml"
    file.write_text(f"cluster: {__name__}.Refused\nworkers: 2\n")
    expected = r"refused\.yaml: .*Refused does not start \(PermissionError: sbatch: Invalid account\); change its"
    with spread(None, file, tmp_path / "home") as each:
        assert not list(each(squared, [])), "without pieces nothing is started"
        with pytest.raises(ClusterError, match=expected):
            list(each(squared, [(1,)]))


@pytest.mark.trial
def test_streams_on_a_dask_cluster_are_the_same(world, tmp_path):
    pytest.importorskip("prefect_dask")
    experiment = load_experiment(write_experiment(tmp_path, world, assimilator="none"))
    streams = cut(experiment, 2, OVERLAP)
    alone, dask = (Archive(tmp_path / name, create=True) for name in ("alone", "dask"))
    pieces = [(stream.experiment, 1) for stream in streams]
    list(in_turn(run_stream, [(alone.folder, *piece) for piece in pieces]))
    with spread(2, FILES / "local.yaml", tmp_path / "prefect") as each:
        check(each, elsewhere=True)
        assert dict(each(Path.is_absolute, [(Path("archive"),)])) == {0: True}
        counts = dict(each(run_stream, [(dask.folder, *piece) for piece in pieces]))
    assert [sum(count.values()) for _, count in sorted(counts.items())] == [8, 7]
    for archive in (alone, dask):
        list(join(archive, experiment, streams))
    for name in ("whole", "whole-1", "whole-2"):
        assert replays.everything(dask.folder, name) == replays.everything(alone.folder, name)
