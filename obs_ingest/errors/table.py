"""The errors that one experiment assumes: the built-in ones converted to its grid, with the experiment's own numbers.

Sources state the built-in errors, because files and caches do not depend on a grid. The cycle restates the errors of
all sources here, and superobs divide them into their two parts by the same table. Values drawn from a world's reference
keep the errors that they were drawn with, on any grid.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.configuration import parse_yaml
from dacycle.forecast_adapter.channels import LEVELS
from dacycle.obs_ingest.distinct import distinct_numbers
from dacycle.obs_ingest.errors.model import (
    REFERENCE_SPACING,
    ErrorModel,
    Profile,
    errors_of,
    representativeness_factor,
    shared_factor,
)
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES, ObservationError

__all__ = ["PARTS", "ErrorSettings", "ErrorTable", "read_errors", "scaled"]

PARTS = ("instrument", "representativeness", "relative_instrument", "relative_representativeness")
"""The sizes of a variable's errors: instrument, representativeness (SI), and both relative to the value."""

ErrorSettings = dict[str, dict[str, float | list[float]]]
"""Numbers for some of `PARTS` and for `shared` (0 to 1), by VARIABLE or SOURCE:VARIABLE.

A list holds one number per level, 50 to 1000 hPa.
"""


@dataclass(frozen=True)
class ErrorTable:
    """Instrument and representativeness errors by source and variable.

    Attributes:
        settings: numbers that replace the built-in ones, on the experiment's grid; SOURCE:VARIABLE before VARIABLE.
        spacing: degrees between the rows of the grid.
        drawn: names of the sources whose values are drawn from a reference.
        kinds: whose errors a source has, by its name (`model.errors_of`); a source not named has the usual ones.
    """

    settings: Mapping[str, Mapping[str, float | Sequence[float]]] = field(default_factory=dict)
    spacing: float = REFERENCE_SPACING
    drawn: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)

    def model(self, source: str, variable: str) -> ErrorModel:
        """Return the errors of a variable in a source."""
        spacing = REFERENCE_SPACING if source in self.drawn else self.spacing
        factor = representativeness_factor(variable, spacing)
        replaced = {**self.settings.get(variable, {}), **self.settings.get(f"{source}:{variable}", {})}
        built_in = self._built_in(source, variable)
        on_grid = replace(
            built_in,
            representativeness=scaled(built_in.representativeness, factor),
            relative_representativeness=scaled(built_in.relative_representativeness, factor),
            shared=scaled(built_in.shared, shared_factor(variable, spacing)),
        )
        return replace(on_grid, **{part: _profile(value) for part, value in replaced.items()})

    def _built_in(self, source: str, variable: str) -> ErrorModel:
        return errors_of(self.kinds.get(source, ""), variable)

    def restate(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the table (n rows) with its errors multiplied by the ratio of this table's to the built-in ones.

        The ratio keeps what a source knows better than the table: humidity errors in proportion to the season's mean.
        """
        value, pressure = table["value"].to_numpy(), table["pressure"].to_numpy()
        error = table["error"].to_numpy().copy()
        for source, variable, rows in _groups(table):
            built_in, assumed = self._built_in(source, variable), self.model(source, variable)
            if assumed != built_in:
                new, old = (sum(model.variances(value[rows], pressure[rows])) for model in (assumed, built_in))
                ratio = np.sqrt(new / old)
                error[rows] *= np.where(np.isfinite(ratio), ratio, 1.0)  # a missing value has no ratio
        return table.assign(error=error)

    def with_equivalents(self, table: pd.DataFrame, equivalents: NDArray) -> pd.DataFrame:
        """Return the table with precipitation's errors in proportion to the larger of the value and H(x_b).

        In proportion to the value alone, a dry report in a wet background would weigh most.

        Args:
            table: n rows, with errors in proportion to the value.
            equivalents: (n,) H(x_b); where it is NaN the error stays.
        """
        value, error = table["value"].to_numpy(), table["error"].to_numpy().copy()
        for source, variable, rows in _groups(table):
            if variable == "tp":
                model = self.model(source, variable)
                larger = np.fmax(value[rows], equivalents[rows])
                new, old = (sum(model.variances(size, np.nan)) for size in (larger, value[rows]))
                error[rows] *= np.sqrt(np.where(np.isfinite(equivalents[rows]), new / old, 1.0))
        return table.assign(error=error)

    def shared_share(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Return the share of each row's error variance (n,) that is common to the stations of a cell, in [0, 1]."""
        value, pressure = table["value"].to_numpy(), table["pressure"].to_numpy()
        share = np.empty(len(table))
        for source, variable, rows in _groups(table):
            shared, own = self.model(source, variable).parts(value[rows], pressure[rows])
            share[rows] = shared / (shared + own)
        return share


def scaled(profile: Profile, factor: float | NDArray) -> Profile:
    """Return a profile times a number, or times one number (13,) per level."""
    if np.ndim(profile) == 0 and np.ndim(factor) == 0:
        return float(np.multiply(profile, factor))
    return tuple(float(x) for x in np.multiply(profile, factor))


def _profile(value: float | Sequence[float]) -> Profile:
    return tuple(value) if isinstance(value, Sequence) else float(value)


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, str, NDArray[np.intp]]]:
    """Yield each pair of source and variable in a table, with the positions of its rows."""
    sources, variables = table["source"].array, table["variable"].array.codes
    pair = sources.codes.astype(np.int64) * len(VARIABLES) + variables
    for code in distinct_numbers(pair)[0].tolist():
        source, variable = divmod(code, len(VARIABLES))
        yield str(sources.categories[source]), VARIABLES[variable], np.nonzero(pair == code)[0]


def read_errors(settings: Any) -> ErrorSettings | None:
    """Check an experiment's `errors`: a mapping, or the path of a YAML file that holds one.

    Raises:
        ObservationError: there is no such file, it is not a mapping, or a variable or part is unknown; names the entry.
    """
    if settings is None:
        return None
    if isinstance(settings, str | Path):
        settings = _load(Path(settings))
    if not isinstance(settings, Mapping):
        raise ObservationError("errors are a mapping such as {t2m: {instrument: 0.5}}, or a file that holds one")
    checked = {str(name): _entry(str(name), parts) for name, parts in settings.items()}
    for name in checked:
        source, _, variable = name.rpartition(":")
        model = ErrorTable(checked).model(source, variable)
        if np.any(np.add(model.instrument, model.representativeness) <= 0):
            raise ObservationError(f"{name}: instrument and representativeness are both 0; every value has an error")
    return checked


def _load(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ObservationError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ObservationError(f"{path}: cannot be read: {error}") from None
    return parse_yaml(text, str(path), "a file of observation errors", ObservationError)


def _entry(name: str, parts: Any) -> dict[str, float | list[float]]:
    variable = name.rpartition(":")[2]
    if variable not in VARIABLES:
        raise ObservationError(f"{name} is no VARIABLE or SOURCE:VARIABLE; variables are {', '.join(VARIABLES)}")
    if not isinstance(parts, Mapping) or not parts or not set(parts) <= {*PARTS, "shared"}:
        raise ObservationError(f"{name} is {parts!r}; it says some of {', '.join(PARTS)}, shared")
    numbers = {str(part): _numbers(f"{name}: {part}", value, variable) for part, value in parts.items()}
    if np.max(numbers.get("shared", 0.0)) > 1:
        raise ObservationError(f"{name}: shared is {parts['shared']!r}; it is a share, 0 to 1")
    return numbers


def _numbers(what: str, value: Any, variable: str) -> float | list[float]:
    if isinstance(value, list | tuple):
        if variable not in LEVEL_VARIABLES or len(value) != len(LEVELS):
            wanted = f"one number, or {len(LEVELS)}" if variable in LEVEL_VARIABLES else "one number"
            raise ObservationError(f"{what} is a list of {len(value)}; it takes {wanted}")
        return [_number(what, item) for item in value]
    return _number(what, value)


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
        raise ObservationError(f"{what} is {value!r}, not a number of at least 0")
    return float(value)
