"""YAML files that a user writes, checked against a pydantic model: one line per problem, with file, line and key.

Experiments, worlds, recipes, benchmarks and registrations of models are read with `read_checked`. Each is a class
derived from `Strict`, in the module of what it configures.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from copy import deepcopy
from io import StringIO
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from dacycle.common.errors import DacycleError
from dacycle.common.foreign import read_text

__all__ = [
    "NO_CHANGES",
    "Number",
    "Strict",
    "parse_checked",
    "parse_value",
    "parse_yaml",
    "read_checked",
    "set_entry",
    "suggestion",
    "write_yaml",
]

Content = TypeVar("Content", bound=BaseModel)


NO_CHANGES: Mapping[str, Any] = MappingProxyType({})


class Strict(BaseModel):
    """Refuse unknown keys; the base of everything that a YAML file configures."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> float:
    number: float = check(value)
    return value if isinstance(value, int) else number


Number = Annotated[float, WrapValidator(_as_written)]
"""A number that stays whole if it is written so, for models whose digest depends on how a value is written."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` where a known name is near, else the list of known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names)}"


def read_checked(
    path: Path | str, kind: type[Content], what: str, error: type[DacycleError], changes: Mapping[str, Any] = NO_CHANGES
) -> Content:
    """Read a YAML file and check it against a model.

    Args:
        path: the file, in UTF-8, or in UTF-16 with a byte order mark.
        kind: the pydantic model.
        what: what the file describes, with its article, for messages: "an experiment".
        error: what is raised.
        changes: values in place of the file's, by key; `a.b` is the entry b of the mapping a.

    Raises:
        error: the file cannot be read, or one line per problem, `FILE:LINE: key: problem`.
    """
    path = Path(path)
    if not path.exists():
        raise error(f"{path}: there is no such file ({what} is expected)")
    return parse_checked(read_text(path, error), str(path), kind, what, error, changes)


def parse_checked(
    text: str, source: str, kind: type[Content], what: str, error: type[DacycleError],
    changes: Mapping[str, Any] = NO_CHANGES,
) -> Content:  # fmt: skip
    """Check the text of a YAML file; `source` names it in messages. Arguments and errors as `read_checked`."""
    node = parse_yaml(text, source, what, error)
    for key, value in changes.items():
        set_entry(node, key, value, source, error)
    try:
        return kind.model_validate(_plain(node))
    except ValidationError as problems:
        lines = sorted((_explain(node, kind, problem) for problem in problems.errors()), key=lambda line: line[0])
        raise error("\n".join(f"{source}:{line}: {sentence}" for line, sentence in lines)) from None


def set_entry(
    content: MutableMapping[str, Any], key: str, value: Any, source: str, error: type[DacycleError]
) -> None:  # fmt: skip
    """Give an entry of a mapping, whose key is `a` or `a.b`, another value.

    None removes it, so that its default counts. Mappings on the way are made, or copied: where another key, or another
    content, has the same mapping (an alias in YAML), it stays as it is there.

    Raises:
        error: something on the way is no mapping; `source` names the content in the message.
    """
    place: Any = content
    *parents, leaf = key.split(".")
    for parent in parents:
        inner = deepcopy(place.get(parent, CommentedMap()))
        if not isinstance(inner, MutableMapping):
            raise error(f"{source}: {key}: {parent} is no mapping, so it has no entry {leaf}")
        place[parent] = inner
        place = inner
    if value is None:
        place.pop(leaf, None)
    else:
        place[leaf] = value


def parse_yaml(text: str, source: str, what: str, error: type[DacycleError]) -> CommentedMap:
    """Parse a YAML mapping and keep the positions of its keys. Arguments and errors as `read_checked`."""
    try:
        node = YAML(typ="rt").load(text)
    except DuplicateKeyError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise error(f"{source}:{line}: a key is there twice: {str(problem.problem).splitlines()[0]}") from None
    except MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise error(f"{source}:{line}: not valid YAML: {problem.problem}") from None
    except YAMLError as problem:
        raise error(f"{source}: not valid YAML: {problem}") from None
    if not isinstance(node, CommentedMap):
        raise error(f"{source}:1: {what} is a mapping of keys to values")
    return node


def parse_value(text: str, source: str, error: type[DacycleError]) -> Any:
    """Return the value that a text such as `3h` or `[olr, u10]` has in a YAML file; `source` names it in messages.

    Raises:
        error: the text is not valid YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as problem:
        raise error(f"{source}: {text!r} is not a YAML value: {problem}") from None


def write_yaml(content: Mapping[str, Any]) -> str:
    """Return content as the text of a YAML file, keys in their order."""
    text = StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump(dict(content), text)
    return text.getvalue()


def _plain(node: Any) -> Any:
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    if isinstance(node, str | float):  # classes of ruamel's own, which remember how the value was written
        return str(node) if isinstance(node, str) else float(node)
    return node


def _line_of(node: Any, location: tuple[str | int, ...]) -> int:
    """Return the line (from 1) of the deepest part of `location` that the document holds."""
    line = 1
    for part in location:
        if isinstance(node, CommentedMap) and part in (node.lc.data or ()):
            line = node.lc.key(part)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line


def _explain(node: CommentedMap, kind: type[BaseModel], problem: Any) -> tuple[int, str]:
    """Return line and sentence of one problem that pydantic found."""
    location = tuple(problem["loc"])
    line, key = _line_of(node, location), ".".join(str(part) for part in location) or "the file"
    if problem["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in _model_at(kind, location[:-1]).model_fields.items()]
        return line, f"{key}: unknown key{suggestion(str(location[-1]), known)}"
    if problem["type"] == "missing":
        model = _model_at(kind, location[:-1])
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        hint = fields[str(location[-1])].description if str(location[-1]) in fields else None
        return line, f"{key}: this key is required" + (f" ({hint})" if hint else "")
    if problem["type"] in _LISTS:
        given = problem["input"]
        example = f"[{given}]" if isinstance(given, str | int | float) else "[first, second]"
        return line, f"{key}: a list is expected, such as {example}"
    if problem["type"] in _MAPPINGS:
        return line, f"{key}: a mapping of keys to values is expected"
    return line, f"{key}: {problem['msg'].removeprefix('Value error, ')}"


_LISTS = ("tuple_type", "list_type")
_MAPPINGS = ("model_type", "model_attributes_type", "dict_type")


def _model_at(kind: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel]:
    """Return the model of the mapping at `location`; positions in lists and tags of unions are passed over."""
    for part in location:
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                kind = next(_models_in(field.annotation), kind)
                break
        else:
            kind = next((m for m in _models_in(kind) if m.__name__ == part), kind)
    return kind


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple, list, dict) or hasattr(annotation, "__metadata__"):
        for argument in get_args(annotation):
            yield from _models_in(argument)
