"""What a forecast model runs on: provider, device, memory, threads and batch, a matter of the machine.

So they are set by the environment, never by an experiment:

* `DACYCLE_PROVIDER`: `auto` (the default), `cpu`, `cuda` or `tensorrt`. `auto` runs registered models on a GPU where
  there is one, and all else on the CPU. What is asked for by name and cannot be had is an error.
* `DACYCLE_DEVICE`: which GPU, from 0. `DACYCLE_GPU_MEMORY`: how many GB of it may be taken.
* `DACYCLE_BATCH`: most states in one call of a network.
"""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from dacycle.common.settings import read_settings
from dacycle.forecast_adapter.models.onnxfile import CPU, CUDA, TENSORRT, ModelFileError, open_session

__all__ = ["ProviderWarning", "Runtime", "gpu_present"]

logger = logging.getLogger(__name__)

_PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_BATCH_BYTES = 256 << 20
"""Input of a call that is not told its batch: small grids share calls, a state of 0.25 degrees has one to itself."""


class ProviderWarning(UserWarning):
    """There is a GPU, but the model runs on the CPU."""


def gpu_present() -> bool:
    """Whether this machine shows an NVIDIA GPU, whether or not ONNX Runtime can use it."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


@dataclass(frozen=True)
class Runtime:
    """See the module.

    Attributes:
        provider: auto, cpu, cuda or tensorrt.
        threads: on the CPU; other numbers give other roundings.
        device: number of the GPU.
        gpu_memory: GB of it that ONNX Runtime may take; None: all.
        batch: most states in one call; None: as many as `_BATCH_BYTES` allow.
    """

    provider: str = "auto"
    threads: int = 1
    device: int = 0
    gpu_memory: float | None = None
    batch: int | None = None

    @classmethod
    def from_settings(cls, threads: int = 1) -> "Runtime":
        """Return what the settings (`DACYCLE_PROVIDER`, ...) say.

        Raises:
            SettingsError: a setting has no meaning.
        """
        settings = read_settings()
        return cls(settings.provider, threads, settings.device, settings.gpu_memory, settings.batch)

    def open(self, path: Path, large: bool, profile: Path | None = None) -> ort.InferenceSession:
        """A session on the provider that was asked for.

        Args:
            path: the network.
            large: whether it is one for a GPU; then its memory is given back between calls, too.
            profile: where ONNX Runtime writes what it did; None: nowhere.

        Raises:
            ModelFileError: as `open_session`; with `auto`, a GPU that cannot be used is a `ProviderWarning`.
        """
        name = self.provider if self.provider != "auto" else "cuda" if large and gpu_present() else "cpu"
        try:
            return open_session(path, self.threads, _PROVIDERS[name], self._options(name), large, profile)
        except ModelFileError as error:
            if self.provider != "auto" or name == "cpu":
                raise
            text = f"{path.name} runs on the CPU although there is a GPU: {error}"
            warnings.warn(text, ProviderWarning, stacklevel=3)
            logger.warning(text)
        return open_session(path, self.threads, CPU, {}, large, profile)

    def batch_of(self, frame_bytes: int) -> int:
        """Most states in one call, where a state of one frame has so many bytes.

        It does not depend on what memory is free: batches of other sizes may round differently.
        """
        return self.batch or max(1, _BATCH_BYTES // (2 * frame_bytes))

    def _options(self, provider: str) -> dict[str, Any]:
        if provider == "cpu":
            return {}
        limit = {} if self.gpu_memory is None else {"gpu_mem_limit": str(int(self.gpu_memory * 1e9))}
        if provider == "cuda":
            # The arena otherwise doubles; the exhaustive search of cuDNN takes memory, and another choice each time.
            fixed = {
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
                "use_tf32": "0",
            }
            return {"device_id": str(self.device), **fixed, **limit}
        cache = read_settings().home / "tensorrt"
        cache.mkdir(parents=True, exist_ok=True)
        names = ("trt_engine_cache_enable", "trt_timing_cache_enable")
        places = {key: str(cache) for key in ("trt_engine_cache_path", "trt_timing_cache_path")}
        return {"device_id": str(self.device), **dict.fromkeys(names, "1"), **places}
