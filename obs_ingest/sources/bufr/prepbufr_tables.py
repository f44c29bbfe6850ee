"""PrepBUFR's own tables, which a file holds in front of its data, and the reports that they describe.

NCEP's messages refer to tables of their own (data category 11, "DX"): lists of characters for the tables A, B and D,
as NCEPLIBS-bufr writes them (version 1). A data message names one sequence, and each of its reports begins with its
length in bytes. Sequences nest others, once or as often as a count of 1, 8 or 16 bits says. This is read here without
ecCodes, which does not know such tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TABLES", "Tables", "reports", "sequence_of"]

TABLES = 11
"""The data category of messages that hold tables."""

_A, _B, _D, _MEMBER = 67, 112, 70, 6  # characters of an entry of each table, and of a member of a sequence
_COUNTS = {"360001": 16, "360002": 8, "360003": 8, "360004": 1, "031000": 1, "031001": 8, "031002": 16}
"""Bits of the count in front of a member that is repeated."""
_TEXT = "CCITT IA5"
_DEEPEST = 20  # levels of nesting; a table that refers to itself has no end
_LONGEST = 100_000  # elements of a sequence; those of PrepBUFR have some hundreds

Report = dict[str, Any]
"""Values by mnemonic, None where missing; and for each member that is repeated, by the first mnemonic in it, a list of
the same. A member that is there once or not is part of its parent."""


@dataclass(frozen=True)
class _Step:
    """A part of a sequence: bits to skip, a value, or a repetition of other parts (`count` bits in front of it)."""

    bits: int
    name: str = ""
    scale: float = 1.0
    reference: int = 0
    text: bool = False
    count: int = 0
    body: tuple["_Step", ...] = ()


@dataclass
class Tables:
    """The tables of a file.

    Attributes:
        wanted: mnemonics of the elements to read.
    """

    wanted: frozenset[str]
    _elements: dict[str, _Step] = field(default_factory=dict)
    _sequences: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    _compiled: dict[str, tuple[_Step, ...]] = field(default_factory=dict)
    _left: int = _LONGEST

    def add(self, message: bytes) -> None:
        """Add what a message of tables defines.

        Raises:
            ValueError, IndexError: it does not.
        """
        self._compiled.clear()
        at = _section4(message)
        count = message[at]
        at += 1 + count * _A
        count, at = message[at], at + 1
        for _ in range(count):
            self._element(_characters(message, at, _B))
            at += _B
        count, at = message[at], at + 1
        for _ in range(count):
            entry, members = _characters(message, at, _D), message[at + _D]
            at += _D + 1
            listed = [_characters(message, at + i * _MEMBER, _MEMBER) for i in range(members)]
            self._sequences[entry[:6]] = entry[6:14].strip(), listed
            at += members * _MEMBER
            if at < len(message) and message[at] == 0:
                at += 1

    @property
    def known(self) -> bool:
        """Return whether there are any."""
        return bool(self._sequences)

    def name(self, descriptor: str) -> str:
        """Return the mnemonic of a sequence, empty where it is not in the tables."""
        return self._sequences.get(descriptor, ("", []))[0]

    def steps(self, descriptor: str) -> tuple[_Step, ...]:
        """Return the parts of a sequence."""
        if descriptor not in self._compiled:
            self._left = _LONGEST
            self._compiled[descriptor] = tuple(_merged(self._steps(descriptor, 0)))
        return self._compiled[descriptor]

    def _element(self, entry: str) -> None:
        name, unit = entry[6:14].strip(), entry[70:94].strip()
        scale = int(entry[95:98]) * (-1 if entry[94] == "-" else 1)
        reference = int(entry[99:109]) * (-1 if entry[98] == "-" else 1)
        width = int(entry[109:112])
        wanted = name if name in self.wanted else ""
        self._elements[entry[:6]] = _Step(width, wanted, 10.0**-scale, reference, unit == _TEXT)

    def _steps(self, descriptor: str, depth: int) -> Iterator[_Step]:
        if depth > _DEEPEST:
            raise ValueError(f"the tables nest {descriptor} without end")
        members = iter(self._sequences[descriptor][1])
        wider = 0  # bits, by the operator 201YYY; 202YYY changes scales only
        for member in members:
            if member[:3] in ("201", "202"):
                wider = (int(member[3:]) or 128) - 128 if member[:3] == "201" else wider
            elif member[0] == "2":
                raise ValueError(f"the tables use the operator {member}")
            elif wider and member in self._elements:
                yield _Step(self._elements[member].bits + wider)  # none of those that are read
            elif member in _COUNTS or member[0] == "1":
                times = 1
                while member[0] == "1":
                    times, member = int(member[3:]), next(members)
                count = _COUNTS.get(member, 0)
                body = tuple(_merged(self._member(next(members) if count else member, depth)))
                self._spend(len(body) * times)
                yield from [_Step(0, count=count, body=body)] if count else body * times
            else:
                yield from self._member(member, depth)

    def _member(self, descriptor: str, depth: int) -> Iterator[_Step]:
        self._spend(1)
        if descriptor in self._sequences:
            yield from self._steps(descriptor, depth + 1)
        else:
            yield self._elements[descriptor]

    def _spend(self, steps: int) -> None:
        """Count steps of the sequence that is being made, of which a damaged table may have far too many."""
        self._left -= steps
        if self._left < 0:
            raise ValueError(f"the tables have a sequence of more than {_LONGEST} elements")


def _merged(steps: Iterator[_Step]) -> Iterator[_Step]:
    """Yield steps with what is skipped in one piece."""
    skipped = 0
    for step in steps:
        if not step.name and not step.count:
            skipped += step.bits
            continue
        if skipped:
            yield _Step(skipped)
        skipped = 0
        yield step
    if skipped:
        yield _Step(skipped)


def sequence_of(message: bytes, tables: Tables) -> str:
    """Return the descriptor of the sequence that a data message consists of, empty where the tables have none."""
    start = _section3(message)
    length = int.from_bytes(message[start : start + 3], "big")
    for at in range(start + 7, start + length - 1, 2):
        descriptor = _descriptor(int.from_bytes(message[at : at + 2], "big"))
        if tables.name(descriptor):
            return descriptor
    return ""


def reports(message: bytes, steps: tuple[_Step, ...]) -> Iterator[Report]:
    """Yield the reports of a data message.

    Raises:
        ValueError: one does not fit into its length, or the message is compressed.
    """
    start = _section3(message)
    if message[start + 6] & 0x40:
        raise ValueError("it is compressed, which PrepBUFR never is")
    at = _section4(message)
    for _ in range(int.from_bytes(message[start + 4 : start + 6], "big")):
        length = int.from_bytes(message[at : at + 2], "big")
        if length < 2 or at + length > len(message) - 4:
            raise ValueError("a report is longer than its message")
        reader = _Bits(message[at + 2 : at + length])
        report: Report = {}
        reader.read(steps, report)
        yield report
        at += length


class _Bits:
    """The bits of a report, read one element after the other."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at, self._end = content, 0, 8 * len(content)

    def read(self, steps: tuple[_Step, ...], report: Report) -> None:
        """Read elements into a report."""
        for step in steps:
            if step.count:
                self._repeat(step, report)
            elif step.name:
                report.setdefault(step.name, self._value(step))
            else:
                self._skip(step.bits)

    def _repeat(self, step: _Step, report: Report) -> None:
        times = self._number(step.count)
        if not step.body:
            return
        if step.count == 1:
            if times:
                self.read(step.body, report)
            return
        every: list[Report] = [{} for _ in range(times)]
        for each in every:
            self.read(step.body, each)
        if every and every[0]:
            report[next(iter(every[0]))] = every

    def _value(self, step: _Step) -> float | str | None:
        raw = self._number(step.bits)
        if step.text:
            return raw.to_bytes(step.bits // 8, "big").decode("ascii", "replace").strip("\0 ")
        if raw == (1 << step.bits) - 1:
            return None
        return float((raw + step.reference) * step.scale)

    def _number(self, bits: int) -> int:
        at = self._at
        self._skip(bits)
        first, last = at >> 3, (at + bits + 7) >> 3
        return int.from_bytes(self._content[first:last], "big") >> (8 * last - at - bits) & ((1 << bits) - 1)

    def _skip(self, bits: int) -> None:
        self._at += bits
        if self._at > self._end:
            raise ValueError("a report ends within an element")


def _section3(message: bytes) -> int:
    start = 8 + int.from_bytes(message[8:11], "big")
    if message[17 if message[7] == 4 else 15] & 0x80:
        start += int.from_bytes(message[start : start + 3], "big")
    return start


def _section4(message: bytes) -> int:
    """Return where the data of a message begin."""
    start = _section3(message)
    return start + int.from_bytes(message[start : start + 3], "big") + 4


def _descriptor(number: int) -> str:
    return f"{number >> 14}{number >> 8 & 63:02d}{number & 255:03d}"


def _characters(message: bytes, at: int, length: int) -> str:
    if at + length > len(message):
        raise ValueError("its tables are cut off")
    return message[at : at + length].decode("ascii", "replace")
