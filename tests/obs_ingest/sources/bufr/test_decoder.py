"""The decoding process: one for all, replaced when it dies, and gone with the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dacycle.obs_ingest.sources.bufr import decoder, synop_decoder, temp_decoder
from dacycle.obs_ingest.sources.bufr.decoder import DecodingProcess, Undecoded
from tests.obs_ingest.sources.bufr.messages import synop

SYNOP, TEMP = Path(synop_decoder.__file__), Path(temp_decoder.__file__)

ASK = """
import os, signal, sys
from pathlib import Path
from dacycle.obs_ingest.sources.bufr import decoder
list(decoder.decode(Path(sys.argv[1]), [(b"BUFR", False)]))
print(decoder._decoder._process.pid, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def process():
    decoding = DecodingProcess()
    yield decoding
    decoding.stop()


def pid(process):
    return process._process.pid


def is_there(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_one_process_serves_all_readers(process):
    requests = [(synop(), False)] * 3
    first = list(process.decode(SYNOP, requests))
    number = pid(process)
    assert len(first) == 3
    assert all(len(reports) == 1 for reports, _ in first)
    list(process.decode(TEMP, requests))
    assert list(process.decode(SYNOP, requests)) == first
    assert pid(process) == number


def test_a_process_that_was_killed_in_between_costs_no_message(process):
    expected = list(process.decode(SYNOP, [(synop(), False)]))
    os.kill(pid(process), signal.SIGKILL)
    process._process.wait()
    assert list(process.decode(SYNOP, [(synop(), False)])) == expected


def test_a_message_that_kills_it_costs_itself_only(process, tmp_path):
    reader = tmp_path / "reader.py"
    reader.write_text(
        "import os\n"
        "class Reader:\n"
        "    def __init__(self, eccodes): pass\n"
        "    def reports(self, handle, message):\n"
        "        if message[-5:-4] == b'!': os.abort()\n"
        "        return [{'length': len(message)}]\n"
    )
    good = synop()
    bad = good[:-5] + b"!" + good[-4:]
    answers = list(process.decode(reader, [(good, False), (bad, False), (good, False)]))
    assert answers[0] == answers[2] == ([{"length": len(good)}], None)
    assert answers[1] == Undecoded("it brings ecCodes down", final=False)


def test_it_ignores_an_interrupt_that_is_for_the_whole_group(process):
    expected = list(process.decode(SYNOP, [(synop(), False)]))
    number = pid(process)
    os.kill(number, signal.SIGINT)
    assert list(process.decode(SYNOP, [(synop(), False)])) == expected
    assert pid(process) == number


def test_a_forked_process_starts_its_own_and_leaves_the_parents_alone():
    expected = list(decoder.decode(SYNOP, [(synop(), False)]))
    number = pid(decoder._decoder)
    child = os.fork()
    if not child:
        status = 1
        try:
            own = list(decoder.decode(SYNOP, [(synop(), False)]))
            status = 0 if own == expected and pid(decoder._decoder) != number else 2
            decoder._decoder.stop()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(decoder.decode(SYNOP, [(synop(), False)])) == expected
    assert pid(decoder._decoder) == number


@pytest.mark.parametrize("end", ["killed", "at its end"])
def test_it_ends_with_the_process_that_started_it(end):
    asked = subprocess.run([sys.executable, "-c", ASK, str(SYNOP), end], capture_output=True, text=True)
    number = int(asked.stdout)
    for _ in range(300):
        if not is_there(number):
            break
        time.sleep(0.1)
    assert not is_there(number)
