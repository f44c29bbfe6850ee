"""Whole files and folders: seen complete or not at all."""

from pathlib import Path

import pytest

from dacycle.common.files import whole, write_whole


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new/table.csv"
    with whole(target) as temporary:
        temporary.write_text("a")
        assert (temporary.parent, temporary.suffix) == (target.parent, ".csv")
        assert temporary.name.startswith(".")
        assert not target.exists()
    assert target.read_text() == "a"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    def write_half() -> None:
        with whole(target) as temporary:
            if kind == "folder":
                temporary.mkdir()
            (temporary / "x" if kind == "folder" else temporary).write_text("half")
            raise ZeroDivisionError

    target = tmp_path / "target"
    write_whole(target, b"old")
    with pytest.raises(ZeroDivisionError):
        write_half()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_another_with_all_its_files(tmp_path: Path) -> None:
    for names in (("a", "b"), ("c",)):
        with whole(tmp_path / "folder") as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).write_text(name)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
