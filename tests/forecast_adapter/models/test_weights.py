"""Weights in files of their own are found by what the ONNX file says, and belong to the network in every way."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dacycle.common.configuration import parse_yaml, write_yaml
from dacycle.forecast_adapter.models import onnxfile
from dacycle.forecast_adapter.models.onnxfile import ModelFileError, open_session, read_metadata, write_metadata
from dacycle.forecast_adapter.models.registry import add, registered
from dacycle.forecast_adapter.models.weights import weight_files

ALIKE = ["onnx__MatMul_1", "onnx__MatMul_10", "onnx__MatMul_100", "weights/net.bin", "w", "größe 1.bin"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up a machine without registered models."""
    monkeypatch.setenv("DACYCLE_HOME", str(tmp_path / "home"))


def tensor(location: str, **more: str) -> TensorProto:
    """Return a tensor of ten numbers that are in a file of their own."""
    values = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[10], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": location} | more).items():
        values.external_data.add(key=key, value=value)
    return values


def network(path: Path, tensors: list[TensorProto], *nodes: onnx.NodeProto) -> Path:
    """Write a forecast network that adds up its tensors (10,) and adds their mean to its input, which is its output."""
    sums = [helper.make_node("ReduceMean", [each.name], [f"{each.name}:mean"], keepdims=0) for each in tensors]
    names = ["input", *(f"{each.name}:mean" for each in tensors)]
    pair = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 138, 32, 64]) for name in ("input", "output")]
    total = helper.make_node("Sum", names, ["output"])
    graph = helper.make_graph([*sums, *nodes, total], "network", pair[:1], pair[1:], tensors)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    return path


def numbers(folder: Path, name: str, value: float) -> None:
    """Write ten numbers into a file of weights."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(np.full(10, value, np.float32).tobytes())


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """Write a network whose weights are in files with names that begin alike, and in a folder below its own."""
    for name in ALIKE:
        numbers(tmp_path / "made", name, 1)
    numbers(tmp_path / "made", "onnx__MatMul_2", 1)  # nobody's
    return network(tmp_path / "made/network.onnx", [tensor(name) for name in ALIKE])


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("copy", [False, True])
def test_every_file_of_weights_is_recorded_copied_and_checked(apart: Path, name: str, copy: bool) -> None:
    model = add("apart", apart, world="era5", copy=copy)
    assert set(model.files) == {"network.onnx", *ALIKE}
    assert model.size == sum((apart.parent / file).stat().st_size for file in model.files)
    open_session(model.network)
    assert model.complaint(read_all=True) == ""
    numbers(model.network.parent, name, 2)
    assert f"{name} is not the file that was added" in model.complaint(read_all=True)
    again = add("other", model.network, world="era5")
    assert again.digest != model.digest


def test_a_copy_is_whole_without_the_original(apart: Path) -> None:
    add("apart", apart, world="era5", copy=True)
    shutil.rmtree(apart.parent)
    assert registered("apart").complaint(read_all=True) == ""
    open_session(registered("apart").network)


def test_weights_that_an_older_registration_has_not_recorded_are_a_complaint(apart: Path) -> None:
    description = add("apart", apart, world="era5").folder / "model.yaml"
    content = parse_yaml(description.read_text(), "model.yaml", "a description", ModelFileError)
    del content["files"]["onnx__MatMul_10"]
    description.write_text(write_yaml(content))
    complaint = registered("apart").complaint()
    assert "weights in onnx__MatMul_10 were not recorded" in complaint
    assert f"dacycle models add apart {apart}" in complaint


def test_tensors_are_found_wherever_they_stand(tmp_path: Path) -> None:
    places = ["initializer", "attribute", "list", "subgraph", "sparse", "function"]
    files = {place: f"{place}.bin" for place in places}
    for name in files.values():
        numbers(tmp_path, name, 1)
    constant = helper.make_node("Constant", [], ["a"], value=tensor(files["attribute"]))
    listed = helper.make_node("Own", [], ["b"], domain="own", values=[tensor(files["list"])])
    branch = helper.make_graph([], "branch", [], [], [tensor(files["subgraph"])])
    choice = helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch)
    path = network(tmp_path / "network.onnx", [tensor(files["initializer"])], constant, listed, choice)
    model = onnx.ModelProto.FromString(path.read_bytes())
    model.graph.sparse_initializer.add(values=tensor(files["sparse"]), dims=[100])
    inner = helper.make_node("Constant", [], ["e"], value=tensor(files["function"]))
    model.functions.append(helper.make_function("own", "F", [], ["e"], [inner], [helper.make_opsetid("", 17)]))
    inside = numpy_helper.from_array(np.ones(3, np.float32), "inside")
    inside.external_data.add(key="location", value="left-over.bin")  # has no meaning beside values in the file
    model.graph.initializer.append(inside)
    path.write_bytes(model.SerializeToString())
    assert weight_files(path) == sorted(files.values())


def test_the_packaged_networks_have_no_other_files() -> None:
    for path in Path(onnxfile.__file__).parents[1].glob("weights/*.onnx"):
        assert weight_files(path) == []


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/etc/hosts", "its weights are in /etc/hosts, outside its folder"),
        ("../elsewhere.bin", r"\.\./elsewhere\.bin, outside its folder; save it with the weights beside it"),
        ("deep/../../elsewhere.bin", "outside its folder"),
        ("nowhere.bin", r"nowhere\.bin, but there is no file .*nowhere\.bin; put it there"),
        ("deep", "there is no file"),
        ("", "a tensor outside the file has no location"),
    ],
)
def test_weights_that_are_not_in_the_folder_are_refused(tmp_path: Path, location: str, message: str) -> None:
    numbers(tmp_path, "elsewhere.bin", 1)
    (tmp_path / "made/deep").mkdir(parents=True)
    path = network(tmp_path / "made/network.onnx", [tensor(location)])
    for use in (open_session, lambda path: add("own", path, world="era5")):
        with pytest.raises(ModelFileError, match=message):
            use(path)


@pytest.mark.parametrize("content", [b"", b"not ONNX at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 40, b"\x3b"])
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "network.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"network\.onnx: damaged"):
        open_session(tmp_path / "network.onnx")


def test_metadata_make_a_file_whole_by_itself(apart: Path) -> None:
    write_metadata(apart, {"name": "network"})
    assert weight_files(apart) == []
    for name in ALIKE:
        (apart.parent / name).unlink()
    assert read_metadata(apart) == {"name": "network"}


@pytest.mark.parametrize("name", ALIKE)
def test_weights_too_large_for_the_file_are_part_of_its_checksum(
    apart: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(onnxfile, "_LARGEST", 100)
    write_metadata(apart, {"name": "network"})
    assert weight_files(apart) == sorted(ALIKE)
    assert read_metadata(apart) == {"name": "network"}
    numbers(apart.parent, name, 1.0000001)
    with pytest.raises(ModelFileError, match=r"network\.onnx with .*: its checksum is wrong"):
        open_session(apart)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"ir_version": 99}, r"its IR version is 99, too new for ONNX Runtime [\d.]+, which reads \d+ and older"),
        ({"opset": 99}, r"its opset of ai\.onnx is 99, too new for ONNX Runtime [\d.]+, which runs \d+ and older"),
        ({"ml": 99}, r"its opset of ai\.onnx\.ml is 99, too new"),
    ],
)
def test_a_network_that_is_too_new_says_so(tmp_path: Path, versions: dict[str, int], message: str) -> None:
    path = network(tmp_path / "network.onnx", [])
    model = onnx.load(path)
    model.ir_version = versions.get("ir_version", 9)
    model.opset_import[0].version = versions.get("opset", 17)
    if "ml" in versions:
        model.opset_import.add(domain="ai.onnx.ml", version=versions["ml"])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=message):
        open_session(path)


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = network(tmp_path / "network.onnx", [], helper.make_node("Unheard", ["input"], ["x"]))
    with pytest.raises(ModelFileError, match=r"not ONNX that ONNX Runtime [\d.]+ can run: .*Unheard"):
        open_session(path)
