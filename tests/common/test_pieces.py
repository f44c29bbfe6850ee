"""Pieces in processes of this machine: how they end, and how they log."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

from dacycle.common import logs
from dacycle.common.pieces import in_processes


def wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    sleep(60)


def wait_in_two(folder: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with in_processes(2) as each:
        list(each(wait, [(Path(folder),)] * 2))


def speak() -> int:
    logging.getLogger("dacycle.piece").info("said")
    return logging.getLogger("dacycle.quiet").level


def test_an_interrupt_is_left_to_the_parent_which_leaves_no_process_running(tmp_path):
    code = f"from {__name__} import wait_in_two; wait_in_two({str(tmp_path)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    end = monotonic() + 60
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2 and monotonic() < end:
        sleep(0.05)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGINT)
    sleep(0.3)
    assert all(Path(f"/proc/{worker}").exists() for worker in workers)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert said.count("Traceback") == 1
    assert "KeyboardInterrupt" in said.splitlines()[-1]
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_records_of_processes_are_formed_as_those_of_their_parent(capfd):
    logger, quiet = logging.getLogger("dacycle"), logging.getLogger("dacycle.quiet")
    before = logger.handlers[:], logger.level
    try:
        logs.configure("json")
        quiet.setLevel(logging.ERROR)
        with in_processes(2) as each:
            assert dict(each(speak, [()])) == {0: logging.ERROR}
    finally:
        logger.handlers, logger.level = before
        quiet.setLevel(logging.NOTSET)
    assert json.loads(capfd.readouterr().err)["message"] == "said"
