"""PrepBUFR as NCEPLIBS-bufr writes it, from a table of mnemonics in NCEP's layout: independent of the reader."""

import re
from dataclasses import dataclass, field

REPLICATIONS = {"(": ("360001", 16), "{": ("360002", 8), "[": ("360003", 8), "<": ("360004", 1)}


@dataclass
class Table:
    """Numbers, sequences, and scale, reference, width and unit by mnemonic."""

    numbers: dict = field(default_factory=dict)
    sequences: dict = field(default_factory=dict)
    elements: dict = field(default_factory=dict)


def parse(text):
    """Return the table of a text in NCEP's layout."""
    table, section = Table(), ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "MNEMONIC" in cells[0]:
            section = cells[1].split()[0] if len(cells) > 1 else ""
        elif not cells[0] or set(cells[0]) <= set("-. ") or len(cells) < 2:
            continue
        elif section == "NUMBER":
            table.numbers[cells[0]] = cells[1]
        elif section == "SEQUENCE":
            table.sequences.setdefault(cells[0], []).extend(cells[1].split())
        elif section == "SCAL":
            table.elements[cells[0]] = (int(cells[1]), int(cells[2]), int(cells[3]), cells[4])
    return table


def number(table, name):
    """Return the six digits of a mnemonic; those of a table A entry begin with 3 in table D."""
    if re.fullmatch(r"\d{6}", name):
        return name
    return table.numbers[general(name)].replace("A", "3")


def general(name):
    """Return the mnemonic that stands for all that qualify a following value (`.DTHTOPC`, `.REHOVI`)."""
    if name.startswith(".RE"):
        return ".RE...."
    return f"{name[:4]}...." if name.startswith(".") else name


def members(table, name):
    """Yield the descriptors of a sequence as a message of tables lists them."""
    for item in table.sequences[name]:
        if item[0] in REPLICATIONS:
            yield REPLICATIONS[item[0]][0]
            yield number(table, item[1:-1])
        elif item[0] == '"':
            inner, _, times = item[1:].partition('"')
            yield f"101{int(times):03d}"
            yield number(table, inner)
        else:
            yield number(table, item)


def dictionary(table):
    """Return the messages of tables; no more than 100 entries each."""
    a = [
        (digits[-3:] + name.ljust(8) + " " + "X" * 55).ljust(67)[:67]
        for name, digits in table.numbers.items()
        if digits.startswith("A")
    ]
    b = []
    for name, (scale, reference, width, unit) in table.elements.items():
        signs = ["-" if value < 0 else "+" for value in (scale, reference)]
        entry = (number(table, name) + name.ljust(64)).ljust(70) + unit.ljust(24)
        b.append(f"{entry}{signs[0]}{abs(scale):03d}{signs[1]}{abs(reference):010d}{width:03d}")
    d = []
    for name in table.sequences:
        listed = list(members(table, name))
        d.append((number(table, name) + name.ljust(64)).encode() + bytes([len(listed)]) + "".join(listed).encode())
    messages = []
    for part in range(0, max(len(a), len(b), len(d)), 100):
        pieces = [[x if isinstance(x, bytes) else x.encode() for x in each[part : part + 100]] for each in (a, b, d)]
        content = b"".join(bytes([len(piece)]) + b"".join(piece) for piece in pieces)
        messages.append(message(11, 1, (0, 0, 0, 0), bytes(24), content + b"\0", 1))
    return b"".join(messages)


def message(category, subcategory, date, descriptors, content, subsets, flag=128):
    """Return a message of edition 3; date is (year, month, day, hour)."""
    year, month, day, hour = date
    first = bytes([0, 3, 7, 0, 0, category, subcategory, 36, 0, year % 100, month, day, hour, 0, 21])
    second = (len(first) + 3).to_bytes(3, "big") + first
    third = bytes([0]) + subsets.to_bytes(2, "big") + bytes([flag]) + descriptors
    third = (len(third) + 3).to_bytes(3, "big") + third
    fourth = (len(content) + 4).to_bytes(3, "big") + b"\0" + content
    length = 8 + len(second) + len(third) + len(fourth) + 4
    return b"BUFR" + length.to_bytes(3, "big") + b"\3" + second + third + fourth + b"7777"


def data(table, kind, reports, date=(2024, 1, 2, 12)):
    """Return a data message: reports are values by mnemonic, lists of such under the name of a repeated sequence."""
    subsets = []
    for report in reports:
        bits = "".join(encode(table, kind, report))
        bits += "0" * (-len(bits) % 8)
        content = int(bits, 2).to_bytes(len(bits) // 8, "big")
        subsets.append((len(content) + 2).to_bytes(2, "big") + content)
    fxy = [fxy_bits(d) for d in ("063000", number(table, kind), "102000", "031001", "206001", "063255")]
    category = int(table.numbers[kind][-3:])
    return message(category, 0, date, b"".join(fxy) + b"\0", b"".join(subsets), len(reports))


def fxy_bits(descriptor):
    return (int(descriptor[0]) << 14 | int(descriptor[1:3]) << 8 | int(descriptor[3:])).to_bytes(2, "big")


def encode(table, name, values):
    """Yield the bits of a sequence."""
    wider = 0
    for item in table.sequences[name]:
        if re.fullmatch(r"20[12]\d{3}", item):
            wider = (int(item[3:]) or 128) - 128 if item[2] == "1" else wider
        elif item[0] in REPLICATIONS:
            inner, width = item[1:-1], REPLICATIONS[item[0]][1]
            every = values.get(inner, [])
            every = [every] if isinstance(every, dict) else every
            yield format(len(every), f"0{width}b")
            for each in every:
                yield from encode(table, inner, each)
        elif item[0] == '"':
            inner, _, times = item[1:].partition('"')
            for _ in range(int(times)):
                yield from part(table, inner, values, 0)
        else:
            yield from part(table, item, values, wider)


def part(table, name, values, wider):
    if name in table.sequences:
        yield from encode(table, name, values.get(name, values))
        return
    scale, reference, width, unit = table.elements[general(name)]
    value = values.get(name)
    if unit == "CCITT IA5":
        text = (value or "").ljust(width // 8).encode()
        yield "".join(f"{byte:08b}" for byte in text)
    elif value is None:
        yield "1" * (width + wider)
    else:
        yield format(round(value * 10**scale) - reference, f"0{width + wider}b")
