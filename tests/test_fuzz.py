"""A few mutated inputs of each format; `python -m tests.fuzz` tries a hundred thousand."""

from pathlib import Path

import pytest

from tests.fuzz.formats import Format, formats
from tests.fuzz.run import judge, write_inputs

FORMATS = list(formats())
INPUTS = 5


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_what_is_right_is_read(format: Format, tmp_path: Path) -> None:
    path = tmp_path / f"seed{format.suffix}"
    path.write_bytes(format.seeds[0])
    assert judge(format, [path]) == ("read", "")


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_mutated_inputs_are_read_or_refused(format: Format, tmp_path: Path) -> None:
    for number in range(1 if format.batch > 1 else INPUTS):
        outcome, reason = judge(format, write_inputs(format, 0, tmp_path, number))
        assert outcome in ("read", "refused"), reason
