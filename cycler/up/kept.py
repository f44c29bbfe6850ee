"""What `up` keeps from one run to the next: ports and processes."""

import json
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dacycle.common.errors import DacycleError
from dacycle.common.files import write_whole

__all__ = ["Kept", "UpError"]

logger = logging.getLogger(__name__)


class UpError(DacycleError, RuntimeError):
    """Something cannot be brought up; says what, why and the remedy."""


@dataclass
class Kept:
    """Hold what is kept; every change is written at once.

    Attributes:
        file: where.
        ports: by what listens there.
        processes: by name.
    """

    file: Path
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> "Kept":
        """Read what the last run kept, or begin anew.

        Raises:
            UpError: the file is damaged.
        """
        if not file.exists():
            return cls(file)
        try:
            content = json.loads(file.read_text())
            return cls(file, dict(content["ports"]), dict(content["processes"]))
        except (ValueError, KeyError, TypeError):
            raise UpError(f"{file} is damaged: delete it; ports are then chosen again") from None

    def set_processes(self, processes: Mapping[str, int]) -> None:
        """Keep the processes that run now; nothing is written where they are the same as in the file.

        Raises:
            OSError: the file cannot be written.
        """
        if self.processes != processes:
            written, self.processes = self.processes, dict(processes)
            try:
                self._write()
            except OSError:
                self.processes = written
                raise

    def port(self, name: str, host: str, among: range, wanted: int | None = None) -> int:
        """Return the port that is asked for, that of the last time, or a free one, for what listens at a host.

        Raises:
            UpError: the port that is asked for is taken, or none is free.
        """
        if wanted is not None and not is_free(host, wanted):
            raise UpError(f"port {wanted} is taken by another program: end it, or name another port with --port")
        last = self.ports.get(name)
        port = next((p for p in (wanted, last, *among) if p is not None and is_free(host, p)), None)
        if port is None:
            raise UpError(f"no port is free at {host} for the {name} among {among.start} to {among.stop - 1}")
        if last not in (None, port) and wanted is None:
            logger.warning("port %d of the %s is taken by another program; it is %d now", last, name, port)
        self.ports[name] = port
        self._write()
        return port

    def _write(self) -> None:
        content = {"ports": self.ports, "processes": self.processes}
        write_whole(self.file, json.dumps(content, indent=1).encode())


def is_free(host: str, port: int) -> bool:
    """Return whether nothing listens on a port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError:
            return False
    return True
