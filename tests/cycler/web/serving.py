"""The operator's page as a server in a thread, on a port of its own."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from dacycle.cycler.web.app import create_app


@contextmanager
def shown(archive: Path) -> Iterator[str]:
    """Serve the pages of an archive inside the block; yield their address."""
    config = uvicorn.Config(create_app(archive), "127.0.0.1", 0, log_level="warning")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join()
