"""Write the reference of commands and of the experiment's keys from the code."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel

from dacycle.cycler.cli import COMMANDS
from dacycle.cycler.experiment import Experiment


def write_commands(page: Path) -> None:
    """Write a section for each command: what it does, its arguments and options, an example."""
    parts = [
        "# Commands\n",
        "This page is made from the commands themselves; `dacycle COMMAND --help` prints the same.\n",
    ]
    for module, commands in COMMANDS.items():
        group = typer.main.get_group(import_module(f"dacycle.cycler.cli.{module}").app)
        for name in commands:
            parts += _command(f"dacycle {name}", group.commands[name], 2)
    page.write_text("\n".join(parts))


def _command(name: str, command: Any, depth: int) -> Iterator[str]:
    yield f"{'#' * depth} `{name}`\n"
    yield _prose(command.help or "")
    rows = [_parameter(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        yield "| argument or option | default | meaning |\n|---|---|---|"
        yield "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
    for child_name, child in getattr(command, "commands", {}).items():
        yield from _command(f"{name} {child_name}", child, depth + 1)


def _prose(text: str) -> str:
    """Return the help as Markdown, with its examples as code."""
    text = inspect.cleandoc(re.sub(r"[\b\f]", "", text))
    return re.sub(r"\n*Example: (.*)", r"\n\n    \1", text) + "\n"


def _parameter(parameter: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.make_metavar()}`" if hasattr(parameter, "make_metavar") else names
    default = "" if parameter.default in (None, False, ()) or callable(parameter.default) else f"`{parameter.default}`"
    return names, default, " ".join((getattr(parameter, "help", "") or "").split()).replace("|", "\\|")


def write_keys(page: Path) -> None:
    """Write a table of the keys for each section of an experiment's file."""
    parts = ["# Keys of an experiment\n", "This page is made from the classes that read the file.\n"]
    parts += _section("", Experiment)
    page.write_text("\n".join(parts))


def _section(prefix: str, kind: type[BaseModel]) -> Iterator[str]:
    yield f"## {f'`{prefix}`' if prefix else 'An experiment'}\n"
    yield _summary(kind) + "\n"
    meanings = _meanings(kind)
    yield "| key | default | meaning |\n|---|---|---|"
    sections = []
    for name, field in kind.model_fields.items():
        key, meaning = field.alias or name, meanings.get(name, "")
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        inner = _model_in(field.annotation)
        if inner is not None:
            sections.append((f"{prefix}.{key}".strip("."), inner))
        told = value is None or inner is not None or "default" in meaning  # by the meaning, or by a section
        default = "" if told else f"`{value}`"
        yield f"| `{key}` | {default} | {meaning.replace('|', chr(92) + '|')} |"
    yield ""
    for title, inner in sections:
        yield from _section(title, inner)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)


def _summary(kind: type[BaseModel]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("Attributes:")[0].strip()


def _meanings(kind: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings of a class's fields, which follow them in its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
