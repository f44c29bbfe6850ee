"""Settings of the machine, from environment variables that begin with `DACYCLE_`.

Nothing here changes what an experiment means: it says where files are kept and what networks run on.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dacycle.common.configuration import suggestion
from dacycle.common.errors import DacycleError

__all__ = ["Settings", "SettingsError", "read_settings"]

_PREFIX = "DACYCLE_"


class SettingsError(DacycleError, ValueError):
    """An environment variable has no meaning; the message names it and what it may be."""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dacycle"


class Settings(BaseModel):
    """Hold the settings; each attribute is the variable `DACYCLE_` and its name in capitals.

    Attributes:
        home: folder of a user's own worlds and models.
        cache: folder of files that were fetched and for which no folder was named.
        provider: what networks run on; `auto` takes a GPU for large networks where there is one.
        device: number of the GPU, from 0.
        gpu_memory: GB of GPU memory that ONNX Runtime may take; None: all.
        batch: most states in one call of a network; None: as many as memory allows.
        log: how log records are written: `human` or `json`.
        costs: file to which each command adds a line: seconds, processor seconds, and its largest process (GB).
        archive: folder of the archive, or its place in a bucket, for commands without `--archive`.
        mirror: address of a copy of the public archives of observations, for `dacycle fetch`.
        alert_webhook: address to which alerts are posted as JSON.
        alert_mail: addresses, with commas, to which alerts are mailed.
        mail_from: sender of these mails.
        mail_server: HOST or HOST:PORT that takes them.
        metrics: folder to which live runs write `dacycle-EXPERIMENT.prom`, for Prometheus' node_exporter.
        clock: time of live runs in a rehearsal: TIME since TIME OF THE MACHINE xSPEED; docs/every-six-hours.md.
        samples: folder of genuine sample files, for `dacycle bench ingest` and the tests.
    """

    model_config = ConfigDict(frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".local/share/dacycle")
    cache: Path = Field(default_factory=_cache)
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    device: int = Field(default=0, ge=0)
    gpu_memory: float | None = Field(default=None, gt=0)
    batch: int | None = Field(default=None, gt=0)
    log: Literal["human", "json"] = "human"
    costs: Path | None = None
    archive: str | None = None
    mirror: str | None = Field(default=None, pattern="https?://.+")
    alert_webhook: str | None = Field(default=None, pattern="https?://.+")
    alert_mail: str | None = Field(default=None, pattern=".+@.+")
    mail_from: str = "dacycle@localhost"
    mail_server: str = Field(default="localhost", pattern=r"^[^:\s]+(:\d+)?$")
    metrics: Path | None = None
    clock: str | None = None
    samples: Path | None = None


def read_settings() -> Settings:
    """Read the settings from the environment as it is now.

    Raises:
        SettingsError: a variable has no meaning, or begins with `DACYCLE_` and is none of the settings.
    """
    known = {f"{_PREFIX}{name.upper()}": name for name in Settings.model_fields}
    given = {variable: text for variable, text in sorted(os.environ.items()) if variable.upper().startswith(_PREFIX)}
    for variable in given:
        if variable.upper() not in known:
            raise SettingsError(f"{variable}: unknown setting{suggestion(variable.upper(), known)}")
    try:
        return Settings.model_validate({known[variable.upper()]: text for variable, text in given.items() if text})
    except ValidationError as error:
        lines = [f"{_PREFIX}{str(p['loc'][0]).upper()} is {p['input']!r}: {p['msg']}" for p in error.errors()]
        raise SettingsError("\n".join(lines)) from None
