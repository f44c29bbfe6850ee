"""Containers, manifests and units: every command, path, port, setting and build argument that they name exists.

Nothing here starts a container. deploy/README.md says which of the tools' own linters were run.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings as PrefectSettings
from ruamel.yaml import YAML

from dacycle.common.settings import Settings
from dacycle.cycler.cli import COMMANDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "containers/dacycle.Dockerfile"
COMPOSE = sorted((DEPLOY / "containers").glob("*.yaml"))
MANIFESTS = sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
DASK = DEPLOY / "dask/kubernetes.yaml"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def load(path: Path) -> list[Any]:
    return list(YAML(typ="safe").load_all(path))


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text()))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def services() -> dict[str, Any]:
    (compose,) = load(DEPLOY / "containers/compose.yaml")
    return compose["services"]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every container of the manifests that run dacycle's image, with the file that names it."""
    for path in MANIFESTS:
        for each in load(path):
            pod = each.get("spec", {}).get("template", {}).get("spec", {})
            for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
                yield f"{path.name} {container['name']}", container
    (cluster,) = load(DASK)
    for part in ("worker", "scheduler"):
        for container in cluster["options"]["custom_cluster_spec"]["spec"][part]["spec"]["containers"]:
            yield f"dask {part}", container


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command of dacycle or Prefect that a container or a unit runs."""
    for name, service in services().items():
        if service.get("command") and service.get("image", "").startswith("dacycle"):
            yield f"compose {name}", [str(part) for part in service["command"]]
    yield from ((name, container["command"]) for name, container in containers() if "command" in container)
    for unit in UNITS:
        (line,) = re.findall(r"(?m)^ExecStart=(.*)$", unit.read_text())
        program, *arguments = shlex.split(line)
        yield unit.name, [Path(program).name, *arguments]


def options_of(name: str) -> set[str]:
    """Return the options of a command of dacycle."""
    module = next(module for module, known in COMMANDS.items() if name in known)
    group = typer.main.get_group(import_module(f"dacycle.cycler.cli.{module}").app)
    return {option for parameter in group.commands[name].params for option in parameter.opts}


@pytest.mark.parametrize(("where", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_every_command_exists_with_its_options(where: str, command: list[str]) -> None:
    program, name, *rest = command
    options = {part.partition("=")[0] for part in rest if part.startswith("--")}
    if program == "dacycle":
        assert name in {each for known in COMMANDS.values() for each in known}, f"{where}: no such command"
        assert options <= options_of(name)
    else:
        assert program == "prefect"
        module = import_module(f"prefect.cli.{name}")
        text = Path(module.__file__ or "").read_text()
        assert f"def {rest[0]}(" in text
        assert all(f'"{option}"' in text for option in options), options


def env_of(content: dict[str, Any]) -> list[str]:
    env = content.get("environment", content.get("env", []))
    return [each["name"] for each in env] if isinstance(env, list) else list(env)


def test_every_variable_is_a_setting() -> None:
    ours = {f"DACYCLE_{name.upper()}" for name in Settings.model_fields}
    fields = _get_valid_setting_names(PrefectSettings)
    named = {variable for service in services().values() for variable in env_of(service)}
    named |= {variable for _, container in containers() for variable in env_of(container)}
    named |= {pair.split("=")[0] for key, text in instructions() if key == "ENV" for pair in shlex.split(text)}
    named |= set(re.findall(r"\bDACYCLE_[A-Z_]+\b", "".join(path.read_text() for path in COMPOSE))) - {"DACYCLE_FOLDER"}
    assert {name for name in named if name.startswith("DACYCLE_")} <= ours
    assert {name for name in named if name.startswith("PREFECT_")} <= set(fields)
    assert "PREFECT_API_DATABASE_CONNECTION_URL" in named


def test_the_module_that_keeps_leases_exists() -> None:
    texts = "".join(path.read_text() for path in [*COMPOSE, *MANIFESTS])
    (module,) = set(re.findall(r"prefect\.server\.concurrency\.lease_storage\.\w+", texts))
    assert import_module(module).ConcurrencyLeaseStorage


def test_what_is_copied_into_the_image_is_in_the_repository() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for key, text in instructions():
        if key == "COPY" and not text.startswith("--from"):
            for source in text.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, f"{source} is kept out of the build by .dockerignore"


def test_the_image_holds_all_that_the_package_needs() -> None:
    copied = {source for key, text in instructions() if key == "COPY" for source in text.split()[:-1]}
    links = {path.name for path in (ROOT / "src/dacycle").iterdir() if path.is_symlink()}
    assert links <= copied
    assert {"src", "pyproject.toml", "README.md", "LICENSE", "requirements.lock"} <= copied


def test_images_are_built_with_arguments_that_the_dockerfile_takes() -> None:
    declared = {text.partition("=")[0] for key, text in instructions() if key == "ARG"}
    (variants,) = {tuple(re.findall(r"(?<=\s)(cpu|gpu)\)", text)) for key, text in instructions() if "case" in text}
    for path in COMPOSE:
        for service in load(path)[0]["services"].values():
            build = service.get("build", {})
            assert set(build.get("args", {})) <= declared
            if build:
                assert service["image"] == f"dacycle:{build['args']['VARIANT']}"
                assert build["args"]["VARIANT"] in variants
            if "dockerfile" in build:
                context = (path.parent / build["context"]).resolve()
                assert (context, context / build["dockerfile"]) == (ROOT, DOCKERFILE)


def test_every_folder_that_is_mounted_exists() -> None:
    (compose,) = load(DEPLOY / "containers/compose.yaml")
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "containers" / source).resolve().is_dir(), source
            else:
                assert source.startswith("${") or source in compose["volumes"]


def test_prometheus_and_grafana_find_the_page_where_their_settings_say() -> None:
    """The settings name 127.0.0.1, so all three share one address."""
    every = services()
    assert every["prometheus"]["network_mode"] == every["grafana"]["network_mode"] == "service:web"
    (config,) = load(DEPLOY / "prometheus/prometheus.yaml")
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    command = every["web"]["command"]
    assert target == f"127.0.0.1:{command[command.index('--port') + 1]}"
    (sources,) = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")
    assert sources["datasources"][0]["url"].endswith(":9090")
    (dashboards,) = load(DEPLOY / "grafana/provisioning/dashboards/dacycle.yaml")
    path = dashboards["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1] == path for volume in every["grafana"]["volumes"])


def test_published_ports_are_those_that_something_listens_at() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published), "on this machine only"
    listening = {part for service in services().values() for part in service.get("command", []) if str(part).isdigit()}
    assert {port.split(":")[2] for port in published} == listening | {"9090", "3000"}


def test_kubernetes_names_only_what_it_makes() -> None:
    made: dict[str, set[str]] = {}
    for path in MANIFESTS:
        for each in load(path):
            made.setdefault(each["kind"], set()).add(each.get("metadata", {}).get("name", ""))
    text = "".join(path.read_text() for path in [*MANIFESTS, DASK])
    claims = set(re.findall(r"claimName: (\w+)", text))
    assert claims <= made["PersistentVolumeClaim"]
    assert set(re.findall(r"http://(\w+):4200", text)) <= made["Service"]
    (kustomization,) = load(DEPLOY / "kubernetes/base/kustomization.yaml")
    assert sorted(kustomization["resources"]) == sorted(
        path.name for path in (DEPLOY / "kubernetes/base").glob("*.yaml") if path.name != "kustomization.yaml"
    )
    secrets = set(re.findall(r"secretKeyRef: \{name: (\w+), key: (\w+)\}", text))
    said = (DEPLOY / "kubernetes/base/kustomization.yaml").read_text()
    assert all(f"generic {name}" in said and f"--from-literal={key}=" in said for name, key in secrets)


def test_pods_of_dask_start_from_its_own_programs_in_the_folder_that_is_shared() -> None:
    of_dask = [container for name, container in containers() if name.startswith("dask")]
    pytest.importorskip("distributed")
    programs = {("dask", entry.name) for entry in entry_points(group="dask_cli")}
    assert {tuple(container["args"][:2]) for container in of_dask} <= programs
    built = re.findall(r"docker build -t (\S+)", DASK.read_text())
    assert {container["image"] for container in of_dask} == set(built)
    (worker, *_) = of_dask
    (mount,) = worker["volumeMounts"]
    assert worker["workingDir"] == mount["mountPath"]
    (command,) = re.findall(r"dacycle hindcast .*", DASK.read_text())
    assert f"--archive {mount['mountPath']}/" in command
    assert {part for part in command.split() if part.startswith("--")} <= options_of("hindcast")


def test_a_probe_asks_a_port_of_its_container() -> None:
    for name, container in containers():
        ports = {port["containerPort"] for port in container.get("ports", [])}
        for kind, probe in container.items():
            if kind.endswith("Probe"):
                asked = probe.get("httpGet", probe.get("tcpSocket", {})).get("port")
                assert asked is None or asked in ports, f"{name}: {kind}"


def test_units_wait_longer_than_the_command_lets_cycles_run() -> None:
    text = (DEPLOY / "systemd/dacycle-up@.service").read_text()
    (patience,) = re.findall(r"--patience (\d+)", text)
    (stop,) = re.findall(r"TimeoutStopSec=(\d+)min", text)
    assert int(patience) + 120 < 60 * int(stop)
    assert "KillMode=mixed" in text, "only `up` is told to end; it lets cycles finish before it ends the workers"


def test_units_are_well_formed(tmp_path: Path) -> None:
    analyze = "/usr/bin/systemd-analyze"
    if not Path(analyze).exists():
        pytest.skip("systemd is not installed")
    for unit in UNITS:
        copy = tmp_path / unit.name.replace("@", "@one")
        text = re.sub(r"(?m)^(ExecStart=)\S+", r"\1/bin/true", unit.read_text())
        copy.write_text(text)
        checked = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True)
        assert unit.name.replace("@", "@one") not in checked.stderr, checked.stderr
