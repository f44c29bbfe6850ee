"""Decode BUFR messages with ecCodes, in a process of their own (`common.contained`): a damaged one can crash ecCodes.

A crash costs one message. One such process serves all sources. A reader interprets the messages of one kind: a file
whose class `Reader` makes reports of an unpacked message (`synop_decoder`, `temp_decoder`). Script and readers import
ecCodes and numpy only.
"""

import os
import pickle
import runpy
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
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


def decode(reader: Path, requests: Sequence[Request]) -> Iterator[Answer]:
    """Yield the answer to each message.

    Args:
        reader: the reader's file.
        requests: the messages.

    Raises:
        RuntimeError: the decoding process does not start; says why.
    """
    done = 0
    while done < len(requests):
        batch = list(requests[done : done + _BATCH])
        received = _process().ask((str(reader), batch), len(batch))
        answers = [Undecoded(answer) if isinstance(answer, str) else answer for answer in received]
        if len(answers) < len(batch):
            answers.append(Undecoded("it brings ecCodes down", final=False))
        done += len(answers)
        yield from answers


def stop() -> None:
    """End the decoding process; it starts again when it is needed."""
    _process().stop()


@lru_cache(maxsize=1)
def _process() -> Any:
    from dacycle.common.contained import Contained  # not for the script

    return Contained(Path(__file__))


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
