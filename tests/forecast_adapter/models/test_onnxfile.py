"""Model files: metadata, checksum, damage."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dacycle.forecast_adapter.models.onnxfile import ModelFileError, digest, open_session, read_metadata, write_metadata


@pytest.fixture
def adder(tmp_path: Path) -> Path:
    """Write a network that adds a stored (1000,) vector to its input."""
    weights = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "weights"], ["output"])],
        "adder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 1000])],
        [weights],
    )
    path = tmp_path / "adder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_metadata_come_back_and_the_graph_still_runs(adder: Path) -> None:
    about = {"name": "adder", "channels": ["z500", "t850"], "scores": {"rmse": 1.5}}
    write_metadata(adder, about)
    assert read_metadata(adder) == about
    (output,) = open_session(adder).run(["output"], {"input": np.ones((2, 1000), np.float32)})
    np.testing.assert_array_equal(output[1], np.arange(1000) + 1)
    onnx.checker.check_model(onnx.load(adder))


def test_metadata_are_replaced_not_added_to(adder: Path) -> None:
    write_metadata(adder, {"name": "first", "only": "there"})
    write_metadata(adder, {"name": "second"})
    assert read_metadata(adder) == {"name": "second"}
    assert len(onnx.load(adder).metadata_props) == 3


def test_other_peoples_metadata_are_kept(adder: Path) -> None:
    model = onnx.load(adder)
    model.metadata_props.add(key="author", value="someone")
    onnx.save(model, adder)
    write_metadata(adder, {"name": "adder"})
    assert {p.key: p.value for p in onnx.load(adder).metadata_props}["author"] == "someone"


def test_a_file_without_metadata_says_what_is_missing(adder: Path) -> None:
    with pytest.raises(ModelFileError, match="no `dacycle` metadata"):
        read_metadata(adder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.onnx"):
        open_session(tmp_path / "nowhere.onnx")


def test_any_flipped_byte_is_refused(adder: Path) -> None:
    write_metadata(adder, {"name": "adder"})
    whole = adder.read_bytes()
    for position in np.linspace(0, len(whole) - 1, 60).astype(int):
        adder.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(ModelFileError):
            # A byte of the key `dacycle` itself leaves a file without metadata.
            read_metadata(open_session(adder))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(adder: Path, share: float) -> None:
    write_metadata(adder, {"name": "adder"})
    whole = adder.read_bytes()
    adder.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelFileError, match=r"adder\.onnx"):
        read_metadata(open_session(adder))


def test_a_provider_that_is_not_there_is_refused(adder: Path) -> None:
    with pytest.raises(ModelFileError, match="NoSuchProvider"):
        open_session(adder, provider="NoSuchProvider")


def test_cuda_is_never_replaced_by_the_cpu_without_a_word(adder: Path) -> None:
    """Either the session runs on CUDA, or there is an error; ONNX Runtime alone falls back silently."""
    try:
        session = open_session(adder, provider="CUDAExecutionProvider")
    except ModelFileError as error:
        assert "CUDAExecutionProvider" in str(error)  # noqa: PT017
    else:
        assert session.get_providers()[0] == "CUDAExecutionProvider"


def test_the_digest_is_that_of_the_file(adder: Path) -> None:
    before = digest(adder)
    assert len(before) == 64
    assert digest(adder) == before
    write_metadata(adder, {"name": "adder"})
    assert digest(adder) != before
