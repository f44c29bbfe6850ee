"""A fetch that is killed at random moments, and run again each time."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from dacycle.common.locks import locked
from dacycle.obs_ingest.table import ObservationError
from tests.archives.content import ISD, isd_file, make, reports, write
from tests.archives.server import BLOCK, serving

KILLS, CONNECTIONS = 10, 3

PARENT = """
import os, signal, sys
from dacycle.cycler.cli import main
import dacycle.cycler.cli.files.fetch
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        sys.argv = ["dacycle", *line.split()]
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        sys.stdout.flush()
        os._exit(status)
    print(child, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported everything, and runs commands in children of its own: they begin at once."""


class Commands:
    """Commands that are run one after the other, and may be killed."""

    def __init__(self, server, log):
        self.log = log
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            env={**os.environ, "DACYCLE_MIRROR": server.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def start(self, *words):
        self._parent.stdin.write(" ".join(map(str, words)) + "\n")
        self._parent.stdin.flush()
        self._child = int(self._parent.stdout.readline())

    def kill(self, how):
        os.kill(self._child, how)

    def end(self):
        """Wait for the end; return the exit status, and what was printed."""
        printed = []
        while not (line := self._parent.stdout.readline()).startswith("ended"):
            printed.append(line)
        return int(line.split()[1]), "".join(printed) + self.log.read_text()

    def close(self):
        self._parent.stdin.close()
        self._parent.wait(60)


@pytest.fixture
def commands(server, tmp_path):
    commands = Commands(server, tmp_path / "log")
    yield commands
    commands.close()


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def server(tmp_path):
    """Six stations of a third of a year each, on a slow line."""
    root = tmp_path / "root"
    make(root)
    for number in range(6):
        place = {"station": f"0100{number}099999", "latitude": 60.0, "longitude": 5.0, "elevation": 1.0}
        write(root / ISD / f"2022/{place['station']}.csv", isd_file(place, reports(120, seed=number)))
    with serving(root) as archives:
        archives.faults.slow = 0.01
        yield archives


def fetch(out):
    return "fetch", "isd", "--years", 2022, "--all", "--out", out, "--rate", 1000, "--connections", CONNECTIONS


@pytest.mark.slow
def test_a_fetch_killed_ten_times_gets_every_file_and_no_byte_twice(server, commands, tmp_path):
    out, draw = tmp_path / "out", random.Random(1)
    total = sum(path.stat().st_size for path in (server.root / ISD).rglob("*.csv"))
    for _ in range(KILLS):
        before = sum(server.sent.values())
        commands.start(*fetch(out))
        wait_until(lambda: sum(server.sent.values()) > before)  # noqa: B023
        time.sleep(draw.uniform(0, 0.05))
        commands.kill(signal.SIGKILL)
        assert commands.end()[0] == -signal.SIGKILL, "the line is too fast for this test"
        for path in out.glob("2022/*.csv"):
            assert path.read_bytes() == (server.root / ISD / "2022" / path.name).read_bytes(), "not whole"
    commands.start(*fetch(out))
    status, text = commands.end()
    assert status == 0, text
    for path in (server.root / ISD).rglob("*.csv"):
        assert (out / "2022" / path.name).read_bytes() == path.read_bytes()
    assert not list(out.rglob(".*.part*"))
    files = {path: size for path, size in server.sent.items() if path.endswith(".csv") and "2022" in path}
    # What a killed process had not yet read from its connections had been sent, and had to be sent again.
    assert total <= sum(files.values()) <= total + KILLS * CONNECTIONS * 2 * BLOCK
    for path in files:
        starts = [start for _, asked, start, code in server.asked if asked == path and code in (200, 206)]
        assert starts == sorted(starts), "each request begins where the one before had come to"
    indexes = [path for _, path, _, _ in server.asked if not path.endswith("99999.csv") and "7253" not in path]
    assert len(indexes) < KILLS, "indexes are kept too"


@pytest.mark.slow
def test_an_interrupted_fetch_says_that_it_goes_on(server, commands, tmp_path):
    commands.start(*fetch(tmp_path / "out"))
    wait_until(lambda: any("2022" in path for path in list(server.sent)))
    with (
        pytest.raises(ObservationError, match="is being written by process"),
        locked(tmp_path / "out/.lock", "out", ObservationError),
    ):
        pass
    commands.kill(signal.SIGINT)
    status, text = commands.end()
    assert status == 130
    assert "interrupted; the same command goes on" in text
    commands.start(*fetch(tmp_path / "out"))
    assert commands.end()[0] == 0
