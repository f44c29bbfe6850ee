"""Decode BUFR messages with ecCodes, in a process of their own: a damaged message can crash ecCodes.

`DecodingProcess` starts this file as a script, sends it messages through a pipe, and starts another process when that
one dies: a crash costs one message. A reader interprets the messages of one kind: a file whose class `Reader` makes
reports of an unpacked message (`synop_decoder`, `temp_decoder`). Script and readers import ecCodes and numpy only.

A file is read for two windows, and again by every run of a process. The reports of the latest messages are therefore
kept in memory.
"""

import hashlib
import pickle
import runpy
import signal
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
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
_MEMORY = 64 << 20  # bytes of answers


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
    """A message that cannot be decoded, and why."""

    reason: str


class _Memory:
    """The latest answers, pickled, by reader and message; as many as fit into `_MEMORY`."""

    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    def recall(self, key: bytes) -> bytes | None:
        """Return an answer, if it is still there."""
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def keep(self, key: bytes, answer: bytes) -> None:
        """Add an answer, and drop the oldest ones where memory runs out."""
        if key not in self._answers:
            self._answers[key] = answer
            self._size += len(answer)
        while self._size > _MEMORY:
            self._size -= len(self._answers.popitem(last=False)[1])


_memory = _Memory()


class DecodingProcess:
    """A process that decodes with the reader in a file; use it as a context manager.

    Args:
        reader: the file.
    """

    def __init__(self, reader: Path) -> None:
        self._reader = reader

    def __enter__(self) -> "DecodingProcess":
        self._process: subprocess.Popen[bytes] | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def decode(self, requests: Sequence[Request]) -> Iterator[tuple[list[Report], Receipt | None] | Undecoded]:
        """Yield the reports and the receipt of each message, or why it cannot be decoded.

        Raises:
            RuntimeError: the decoding process does not start; says why.
        """
        keys = [self._key(request) for request in requests]
        stored = [_memory.recall(key) for key in keys]
        new = self._decode([request for request, answer in zip(requests, stored, strict=True) if answer is None])
        for key, earlier_answer in zip(keys, stored, strict=True):
            if earlier_answer is not None:
                yield pickle.loads(earlier_answer)
                continue
            answer = next(new)
            if not isinstance(answer, Undecoded):  # a failure may be the machine's, for instance a timeout
                _memory.keep(key, pickle.dumps(answer))
            yield answer

    def _key(self, request: Request) -> bytes:
        message, keeps_receipt = request
        return hashlib.sha256(f"{self._reader}|{keeps_receipt}|".encode() + message).digest()

    def _decode(self, requests: Sequence[Request]) -> Iterator[tuple[list[Report], Receipt | None] | Undecoded]:
        """Decode messages that are not in memory."""
        done = 0
        while done < len(requests):
            for answer in self._answers(requests[done : done + _BATCH]):
                done += 1
                yield Undecoded(answer) if isinstance(answer, str) else answer

    def _answers(self, requests: Sequence[Request]) -> Iterator[Any]:
        """Yield the process's answers to one batch, up to a message that kills it, if there is one."""
        if self._process is None:
            self._process = self._start()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            pickle.dump(list(requests), stdin)
            stdin.flush()
            for _ in requests:
                yield pickle.load(stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            self._stop()
            yield "it brings ecCodes down"

    def _start(self) -> "subprocess.Popen[bytes]":
        with tempfile.TemporaryFile() as log:
            command = [sys.executable, "-P", str(Path(__file__).resolve()), str(self._reader)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            assert process.stdout is not None
            if not process.stdout.readline():
                process.wait()
                log.seek(0)
                raise RuntimeError(f"the BUFR decoder does not start: {log.read().decode(errors='replace').strip()}")
        return process

    def _stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()


def serve(reader: Path, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more, with reports and receipt or with a text that says what is wrong."""
    import eccodes

    worker: Reader = runpy.run_path(str(reader))["Reader"](eccodes)
    answers.write(b"ready\n")
    answers.flush()
    while True:
        try:
            batch: list[Request] = pickle.load(requests)
        except EOFError:
            return
        for message, keeps_receipt in batch:
            signal.alarm(PATIENCE)
            try:
                answer: Any = _decode(eccodes, worker, message, keeps_receipt)
            except (eccodes.CodesInternalError, ValueError) as error:
                answer = str(error)
            signal.alarm(0)
            pickle.dump(answer, answers)
            answers.flush()  # before the next message, which may bring this process down


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
    serve(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
