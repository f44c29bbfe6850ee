"""Scripts in a process of their own: replaced when they die, and gone with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dacycle.common.contained import Contained

SCRIPT = """
import os, pickle, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
while True:
    try:
        number = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    for i in range(number):
        signal.alarm(1)
        if i == 3:
            os.abort()
        if i == 5:
            time.sleep(60)
        pickle.dump((i, os.getpid()), sys.stdout.buffer)
        sys.stdout.buffer.flush()
        signal.alarm(0)
"""

ASK = """
import os, signal, sys
from pathlib import Path
from dacycle.common.contained import Contained
contained = Contained(Path(sys.argv[1]))
print(contained.ask(1)[0][1], flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    return file


@pytest.fixture
def contained(script: Path) -> Iterator[Contained]:
    process = Contained(script)
    yield process
    process.stop()


def pid(contained: Contained) -> int:
    return contained.ask(1)[0][1]


def is_there(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_one_process_answers_all(contained: Contained) -> None:
    number = pid(contained)
    assert contained.ask(3, 3) == [(0, number), (1, number), (2, number)]
    assert pid(contained) == number


def test_a_request_that_kills_it_costs_the_rest_of_its_answers(contained: Contained) -> None:
    number = pid(contained)
    assert contained.ask(5, 5) == [(0, number), (1, number), (2, number)]
    assert pid(contained) != number


def test_a_request_that_hangs_ends_with_the_scripts_own_alarm(script: Path) -> None:
    script.write_text(SCRIPT.replace("os.abort()", "pass"))
    contained = Contained(script)
    assert [i for i, _ in contained.ask(7, 7)] == [0, 1, 2, 3, 4]
    assert [i for i, _ in contained.ask(1)] == [0]
    contained.stop()


def test_a_process_that_was_killed_in_between_costs_nothing(contained: Contained) -> None:
    number = pid(contained)
    os.kill(number, signal.SIGKILL)
    while is_there(number):
        time.sleep(0.01)
    assert len(contained.ask(2, 2)) == 2


def test_it_ignores_an_interrupt_that_is_for_the_whole_group(contained: Contained) -> None:
    number = pid(contained)
    os.kill(number, signal.SIGINT)
    assert pid(contained) == number


def test_a_script_that_does_not_start_says_why(script: Path) -> None:
    script.write_text("raise SystemExit('no such library')")
    with pytest.raises(RuntimeError, match="does not start: no such library"):
        Contained(script).ask(1)


def test_a_forked_process_starts_its_own_and_leaves_the_parents_alone(contained: Contained) -> None:
    number = pid(contained)
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if pid(contained) != number else 2
            contained.stop()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pid(contained) == number


@pytest.mark.parametrize("end", ["killed", "at its end"])
def test_it_ends_with_the_process_that_started_it(end: str, script: Path) -> None:
    asked = subprocess.run([sys.executable, "-c", ASK, str(script), end], capture_output=True, text=True)
    number = int(asked.stdout)
    for _ in range(300):
        if not is_there(number):
            break
        time.sleep(0.1)
    assert not is_there(number)
