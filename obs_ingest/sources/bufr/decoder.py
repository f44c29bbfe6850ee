"""Decode BUFR messages with ecCodes, in a process of their own: a damaged message can crash ecCodes.

`decode` starts this file as a script when it is first needed, sends it messages through a pipe, and starts it again
when it dies: a crash costs one message. One such process serves all sources; it ends with the process that started it,
however that ends, because its input then closes. A reader interprets the messages of one kind: a file whose class
`Reader` makes reports of an unpacked message (`synop_decoder`, `temp_decoder`). Script and readers import ecCodes and
numpy only.
"""

import atexit
import os
import pickle
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

Report = dict[str, Any]
"""The elements that are present, by short name; the reader of each kind lists the names."""

PATIENCE = 10  # seconds for one message, after which the process is killed

_RECEIPT = ("rdbtimeDay", "rdbtimeHour", "rdbtimeMinute", "rdbtimeSecond")

Receipt = tuple[int, ...]
"""Day of the month, hour, minute and second at which a report was received."""

Request = tuple[bytes, bool]
"""A message, and whether its local section keeps the receipt."""

_BATCH = 200


class Reader(Protocol):
    """The class `Reader` of a reader; its constructor takes the ecCodes module."""

    def reports(self, handle: Any, message: bytes) -> list[Report]:
        """Unpack a message and return its reports of this kind, if it has any.

        Raises:
            ValueError: they cannot be read; says why.
        """
        ...


@dataclass(frozen=True)
class Undecoded:
    """A message that cannot be decoded, and why.

    Attributes:
        reason: in words.
        final: False where it may have been the machine's fault, for instance that it took too long.
    """

    reason: str
    final: bool = True


Answer = tuple[list[Report], Receipt | None] | Undecoded
"""The reports of a message and their receipt, or why it cannot be decoded."""


class DecodingProcess:
    """A process that decodes; threads use it one after the other, and forked processes start their own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def decode(self, reader: Path, requests: Sequence[Request]) -> Iterator[Answer]:
        """Yield the answer to each message.

        Args:
            reader: the reader's file.
            requests: the messages.

        Raises:
            RuntimeError: the decoding process does not start; says why.
        """
        done = 0
        while done < len(requests):
            with self._lock:
                answers = self._answers(reader, requests[done : done + _BATCH])
            done += len(answers)
            yield from answers

    def _answers(self, reader: Path, batch: Sequence[Request]) -> list[Answer]:
        """Return the answers to a batch, up to a message that kills the process, if there is one."""
        if self._process is not None and self._process.poll() is not None:
            self._forget()  # something else has ended it since
        if self._process is None:
            self._process = self._start()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        answers: list[Answer] = []
        try:
            pickle.dump((str(reader), list(batch)), stdin)
            stdin.flush()
            for _ in batch:
                answer = pickle.load(stdout)
                answers.append(Undecoded(answer) if isinstance(answer, str) else answer)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            self._forget()
            answers.append(Undecoded("it brings ecCodes down", final=False))
        except BaseException:
            self._forget()  # an answer may be half read
            raise
        return answers

    def _start(self) -> "subprocess.Popen[bytes]":
        with tempfile.TemporaryFile() as log:
            command = [sys.executable, "-P", str(Path(__file__).resolve())]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            assert process.stdout is not None
            if not process.stdout.readline():
                process.communicate()
                log.seek(0)
                raise RuntimeError(f"the BUFR decoder does not start: {log.read().decode(errors='replace').strip()}")
        return process

    def _forget(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()

    def stop(self) -> None:
        """End the process; it starts again when it is needed."""
        with self._lock:
            self._forget()

    def leave(self) -> None:
        """Leave the process to the parent of a process that was forked, and close the pipes that it inherited."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            process.returncode = 0  # not to be waited for here
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                os.close(pipe.fileno())
            _inherited.append(process)  # closing its files would write what the parent has yet to write


_inherited: list["subprocess.Popen[bytes]"] = []
_decoder = DecodingProcess()
decode, stop = _decoder.decode, _decoder.stop


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more, with reports and receipt or with a text that says what is wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that asks
    import eccodes

    readers: dict[str, Reader] = {}
    answers.write(b"ready\n")
    answers.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # ecCodes' remarks on damaged messages
    while True:
        try:
            batch: tuple[str, list[Request]] = pickle.load(requests)
        except EOFError:
            return
        file, messages = batch
        if file not in readers:
            readers[file] = runpy.run_path(file)["Reader"](eccodes)
        for message, keeps_receipt in messages:
            signal.alarm(PATIENCE)
            try:
                answer: Any = _decode(eccodes, readers[file], message, keeps_receipt)
            except (eccodes.CodesInternalError, ValueError) as error:
                answer = str(error)
            signal.alarm(0)
            try:
                pickle.dump(answer, answers)
                answers.flush()  # before the next message, which may bring this process down
            except BrokenPipeError:
                os._exit(1)  # nobody reads any more


def _decode(codes: Any, reader: Reader, message: bytes, keeps_receipt: bool) -> tuple[list[Report], Receipt | None]:
    handle = codes.codes_new_from_message(message)
    try:
        reports = reader.reports(handle, message)
        for report in reports:
            for name in {"latitude", "longitude"} & report.keys():
                report[name] = round(float(report[name]), 5)  # BUFR's resolution; the pole comes as -90.00..01
        receipt = tuple(int(codes.codes_get(handle, key)) for key in _RECEIPT) if keeps_receipt else None
        return reports, receipt
    finally:
        codes.codes_release(handle)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
else:
    atexit.register(stop)
    os.register_at_fork(after_in_child=_decoder.leave)
