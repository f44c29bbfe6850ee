"""The layout's promises: four top-level components, imported only as dacycle.NAME, each only from those below it."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
COMPONENTS = ("cycler", "assimilators", "obs_ingest", "forecast_adapter")  # each may import those after it
ROOMS = {
    "cycler": (
        "cli", "cli.cycles", "cli.files", "cli.models", "cli.texts", "cli.options", "cli.show", "parallel",
        "up", "web", "sweep", "benchmark", "comparison", "timing", "operations", "keeping",
        "report", "report.data", "single", "cycle", "verification", "archive", "experiment", "blocks",
    ),
    "assimilators": (
        "export", "training", "judging", "variational", "sampling", "networks", "networks.blocks", "", "ensemble",
        "classical", "trained", "step", "incremental", "balance", "base", "ensemble.settings", "variational.settings",
        "exceptions",
    ),
    "obs_ingest": (
        "", "archives", "simulation", "sources.bufr", "sources.text", "sources", "superobs", "quality", "operators",
        "errors", "station_network", "window", "table", "distinct",
    ),
    "forecast_adapter": (
        "", "worlds", "models", "models.graphs", "states", "zarr_store", "scores", "intervals", "state", "statistics",
        "grid", "channels", "remote", "physics", "blosc", "durations",
    ),
}  # fmt: skip
"""The rooms of each component, and the modules at its top; each may import those after it."""
MOST_MODULES = 14
DATA = {".Dockerfile", ".csv", ".html", ".js", ".json", ".md", ".nc", ".npz", ".onnx", ".service", ".yaml"}


def sources(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sources(ROOT / folder) if path.suffix == ".py"]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at any depth; relative ones are resolved."""
    yield from imports_of(path, ".".join(("dacycle", *path.relative_to(ROOT).parent.parts)))


def imports_of(path: Path, parent: str) -> Iterator[str]:
    """Return the same for a file in the package `parent`."""
    package = parent.split(".")
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *filter(None, [node.module])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_is_linked_and_found(component: str) -> None:
    link = ROOT / "src/dacycle" / component
    assert os.readlink(link) == f"../../{component}"
    assert link.resolve() == ROOT / component


def test_cycler_is_no_regular_package() -> None:
    """With an __init__.py, `python -m anything` at the root would find it in place of matplotlib's cycler."""
    assert not (ROOT / "cycler/__init__.py").exists()
    assert not list((ROOT / "cycler").rglob("conftest.py")), "pytest would put cycler/ itself on sys.path"
    assert not list((ROOT / "cycler").rglob("test_*.py"))


def test_matplotlib_works_from_the_root() -> None:
    found = python(
        "import matplotlib.pyplot, cycler; matplotlib.pyplot.rcParams['axes.prop_cycle']; print(cycler.__file__)",
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert found.returncode == 0, found.stderr
    assert "site-packages" in found.stdout


@pytest.mark.parametrize("component", COMPONENTS)
def test_imports_go_downwards_only(component: str) -> None:
    allowed = COMPONENTS[COMPONENTS.index(component) :]
    upwards = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(component)
        for name in imports(path)
        for other in COMPONENTS
        if other not in allowed and re.match(rf"dacycle\.{other}(\.|$)", name)
    ]
    assert not upwards


def room(path: Path) -> str:
    """Return the room of a module: its folder, or itself where it is listed or stands at the top of its component."""
    component, *folders, _ = path.relative_to(ROOT).parts
    itself = ".".join([*folders, "" if path.stem == "__init__" else path.stem]).strip(".")
    return itself if itself in ROOMS[component] or not folders else ".".join(folders)


def module_of(name: str) -> Path | None:
    """Return the file that defines a dotted name, or None outside the components."""
    parts = name.split(".")[1:]
    while parts and name.startswith("dacycle.") and parts[0] in COMPONENTS:
        for path in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")):
            if path.is_file():
                return path
        parts.pop()
    return None


def imported_modules(path: Path) -> set[Path]:
    """Return the files that a module imports, each by the longest dotted name that is a file."""
    names = set(imports(path))
    longest = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
    return {target for name in longest if (target := module_of(name)) is not None and target != path}


@pytest.mark.parametrize("component", COMPONENTS)
def test_rooms_import_only_the_rooms_below_them(component: str) -> None:
    """An order in which every import goes down has no circle; readers of real files stand below the simulation."""
    order = ROOMS[component]
    upwards = [
        f"{path.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
        for path in modules(component)
        for target in imported_modules(path)
        if target.relative_to(ROOT).parts[0] == component and order.index(room(target)) < order.index(room(path))
    ]
    assert not upwards


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {path: imported_modules(path) for path in modules(*COMPONENTS)}
    while graph:
        leaves = {path for path, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"circle among {sorted(str(path.relative_to(ROOT)) for path in graph)}"
        graph = {path: targets for path, targets in graph.items() if path not in leaves}


def test_the_common_ground_imports_no_component() -> None:
    upwards = [
        f"{path.name} imports {name}" for path in sources(ROOT / "src/dacycle/common") if path.suffix == ".py"
        for name in imports_of(path, "dacycle.common") if module_of(name)
    ]  # fmt: skip
    assert not upwards


def test_every_room_can_be_taken_in_at_a_glance() -> None:
    folders = {path.parent for path in modules(*COMPONENTS, "tests")}
    full = {str(f.relative_to(ROOT)): n for f in folders if (n := len(list(f.glob("*.py")))) > MOST_MODULES + 1}
    assert not full, "more modules than one takes in; cut the room in two"


def test_every_room_says_what_is_in_it_who_calls_it_and_where_the_next_one_goes() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for component in COMPONENTS
        for path in sources(ROOT / component)
        if path.name == "__init__.py" and path.parent.parent != ROOT and path.parent.name not in ("data", "graphs")
        and "\n\n" not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]  # fmt: skip
    assert not silent


def test_no_component_is_imported_by_its_bare_name() -> None:
    """It would work from the root, silently, as a second copy of the module."""
    bare = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(*COMPONENTS, "tests", "docs", "deploy")
        for name in imports(path)
        if name.split(".")[0] in COMPONENTS
    ]
    assert not bare


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = project["dependencies"] + extras["train"] + extras["nature"] + extras["dask"]
    declared = {normal(re.split(r"[^\w.-]", line)[0]) for line in requirements}
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)} imports {top}"
        for path in modules(*COMPONENTS)
        for top in {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"dacycle"}
        if not {normal(d) for d in distributions.get(top, [top])} & declared
    }
    assert not undeclared


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_only_one_onnxruntime_and_no_registry_addresses_in_the_locks() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        text = lock.read_text()
        assert re.search(r"^onnxruntime-gpu==", text, re.M), f"{lock.name} lacks onnxruntime-gpu"
        assert not re.search(r"^onnxruntime==", text, re.M), f"{lock.name} has both builds of onnxruntime"
        assert "://" not in text
        assert "--" not in text


def test_the_command_line_starts_without_torch_prefect_or_jax() -> None:
    """The first two take seconds to import and the others need not be installed."""
    found = python(
        "import sys, dacycle.cycler.cli\n"
        "print(sorted({'torch', 'lightning', 'jax', 'jcm', 'prefect'} & set(sys.modules)))"
    )
    assert found.stdout.strip() == "[]", found.stdout + found.stderr


def test_a_checkout_without_links_says_what_is_wrong(tmp_path: Path) -> None:
    package = tmp_path / "dacycle"
    package.mkdir()
    shutil.copy(ROOT / "src/dacycle/__init__.py", package)
    (package / "cycler").write_text("../../cycler")  # what a clone without symbolic links leaves
    found = python("import dacycle", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert found.returncode != 0
    assert "symbolic links" in found.stderr
    assert "cycler, assimilators, obs_ingest, forecast_adapter" in found.stderr


def test_no_line_of_the_documentation_is_a_comment() -> None:
    """MyST leaves out a line that begins with a percent sign, such as the end of a wrapped `5 %`, without a warning."""
    pages = [
        *ROOT.glob("*.md"),
        *(page for folder in (*COMPONENTS, "deploy", "docs") for page in (ROOT / folder).rglob("*.md")),
    ]
    lines = [(page.name, line) for page in pages for line in page.read_text().splitlines()]
    assert len(pages) > 20
    assert not [(page, line) for page, line in lines if line.lstrip().startswith("%")]


def test_the_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in (*COMPONENTS, "deploy", "src"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", tmp_path, tree], check=True)
    (wheel,) = tmp_path.glob("dacycle-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"dacycle/{path.relative_to(ROOT)}"
        for component in (*COMPONENTS, "deploy")
        for path in sources(ROOT / component)
        if path.suffix == ".py" or path.suffix in DATA
    }
    assert wanted <= held, f"missing from the wheel: {sorted(wanted - held)}"
    assert {"dacycle/__init__.py", "dacycle/py.typed"} <= held
    assert not [name for name in held if name.startswith(("cycler/", "tests/"))], "a bare `cycler` breaks matplotlib"


def test_data_files_are_of_a_kind_that_is_packaged() -> None:
    strange = [
        str(path.relative_to(ROOT))
        for component in (*COMPONENTS, "deploy")
        for path in sources(ROOT / component)
        if path.suffix not in DATA | {".py"}
    ]
    assert not strange, "add the suffix to package-data in pyproject.toml, or the wheel will lack the file"
