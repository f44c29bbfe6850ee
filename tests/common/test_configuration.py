"""Files that a user writes: a changed entry is changed where the user says, and nowhere else."""

from dacycle.common.configuration import Strict, parse_checked
from dacycle.common.errors import DacycleError


class _Pair(Strict):
    first: dict[str, dict[str, int]]
    second: dict[str, dict[str, int]]


def test_a_change_leaves_what_has_the_same_anchor() -> None:
    text = "first: &both {inner: {a: 1, b: 2}}\nsecond: *both\n"
    changes = {"first.inner.a": 5, "second.inner.b": None}
    found = parse_checked(text, "pair.yaml", _Pair, "a pair", DacycleError, changes)
    assert found.first == {"inner": {"a": 5, "b": 2}}
    assert found.second == {"inner": {"a": 1}}


def test_mappings_on_the_way_to_a_change_are_made() -> None:
    changes = {"second.inner.a": 3}
    found = parse_checked("first: {}\nsecond: {}\n", "pair.yaml", _Pair, "a pair", DacycleError, changes)
    assert (found.first, found.second) == ({}, {"inner": {"a": 3}})
