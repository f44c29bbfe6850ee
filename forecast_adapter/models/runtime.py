"""The provider, device, memory, threads and batch that a forecast model runs with.

They depend on the machine. So they are settings (`DACYCLE_PROVIDER`, `DACYCLE_DEVICE`, `DACYCLE_GPU_MEMORY`,
`DACYCLE_BATCH`, see `common.settings`) and never part of an experiment. The provider `auto` runs registered models on a
GPU where there is one, and all others on the CPU. A provider that is named and not available is an error.
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
"""Input bytes of a call where no batch is set: small grids share calls, a state at 0.25 degrees takes one alone."""


class ProviderWarning(UserWarning):
    """There is a GPU, but the model runs on the CPU."""


def gpu_present() -> bool:
    """Return whether this machine has an NVIDIA GPU, whether or not ONNX Runtime can use it."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


@dataclass(frozen=True)
class Runtime:
    """The provider, device, memory, threads and batch of a model.

    Attributes:
        provider: auto, cpu, cuda or tensorrt.
        threads: number of threads on the CPU; other numbers give other roundings.
        device: number of the GPU.
        gpu_memory: GB of GPU memory that ONNX Runtime may take; None: all.
        batch: most states in one call; None: as many as `_BATCH_BYTES` allow.
    """

    provider: str = "auto"
    threads: int = 1
    device: int = 0
    gpu_memory: float | None = None
    batch: int | None = None

    @classmethod
    def from_settings(cls, threads: int = 1) -> "Runtime":
        """Return the runtime that the settings describe.

        Raises:
            SettingsError: a setting has no meaning.
        """
        settings = read_settings()
        return cls(settings.provider, threads, settings.device, settings.gpu_memory, settings.batch)

    def open(self, path: Path, large: bool, profile: Path | None = None) -> ort.InferenceSession:
        """Open a network on the provider that is set.

        Args:
            path: the network.
            large: whether `auto` runs it on a GPU; its memory is then also released between calls.
            profile: start of the path of ONNX Runtime's profile; None: no profile.

        Raises:
            ModelFileError: as for `open_session`; with `auto`, a GPU that cannot be used is a `ProviderWarning`.
        """
        name = self.provider if self.provider != "auto" else "cuda" if large and gpu_present() else "cpu"
        try:
            return open_session(path, self.threads, _PROVIDERS[name], self._options(name), large, profile)
        except ModelFileError as error:
            if self.provider != "auto" or name == "cpu":
                raise
            text = f"{path.name} runs on the CPU although there is a GPU: {error}"
            warnings.warn(text, ProviderWarning, stacklevel=3)
            logger.warning("%s", text)
        return open_session(path, self.threads, CPU, {}, large, profile)

    def batch_of(self, frame_bytes: int) -> int:
        """Return the most states in one call, from the bytes of one frame of a state.

        The number does not depend on free memory, because batches of other sizes may round differently.
        """
        return self.batch or max(1, _BATCH_BYTES // (2 * frame_bytes))

    def _options(self, provider: str) -> dict[str, Any]:
        """Return ONNX Runtime's options of a provider."""
        if provider == "cpu":
            return {}
        limit = {} if self.gpu_memory is None else {"gpu_mem_limit": str(int(self.gpu_memory * 1e9))}
        if provider == "cuda":
            # The default arena doubles; cuDNN's exhaustive search takes memory and chooses differently each time.
            fixed = {
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
                "use_tf32": "0",
            }
            return {"device_id": str(self.device), **fixed, **limit}
        cache = read_settings().home / "tensorrt"
        cache.mkdir(parents=True, exist_ok=True)
        enabled = ("trt_engine_cache_enable", "trt_timing_cache_enable")
        paths = ("trt_engine_cache_path", "trt_timing_cache_path")
        return {"device_id": str(self.device), **dict.fromkeys(enabled, "1"), **dict.fromkeys(paths, str(cache))}
