"""What the tasks of a replay keep loaded."""

import pytest

flows = pytest.importorskip("dacycle.cycler.operations.flows")


class Described:
    def __init__(self, digest):
        self.digest, self.world = digest, "tiny"


def test_inputs_are_loaded_once_a_run_and_again_after_a_failure_or_for_another_run(monkeypatch):
    loaded = []
    monkeypatch.setattr(flows, "load_inputs", lambda experiment: loaded.append(experiment.digest) or experiment)
    monkeypatch.setattr(flows, "load_world", lambda world: None)
    monkeypatch.setattr(flows, "replace", lambda kept, experiment: kept)
    with flows._keeping_inputs():
        flows._KEPT["a"] = flows._inputs(Described("a"))
        flows._KEPT["a"] = flows._inputs(Described("a"))
        assert loaded == ["a"]
        flows._inputs(Described("a"))  # the task fails, and does not put it back
        flows._inputs(Described("a"))
        flows._KEPT["b"] = flows._inputs(Described("b"))
        assert loaded == ["a", "a", "b"]
        assert list(flows._KEPT) == ["b"]
    assert not flows._KEPT
