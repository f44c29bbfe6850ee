"""The decoding process: one for all readers; a message that brings it down costs itself only."""

from pathlib import Path

from dacycle.obs_ingest.sources.bufr import synop_decoder, temp_decoder
from dacycle.obs_ingest.sources.bufr.decoder import Undecoded, decode
from tests.obs_ingest.sources.bufr.messages import synop

SYNOP, TEMP = Path(synop_decoder.__file__), Path(temp_decoder.__file__)


def test_one_process_serves_all_readers() -> None:
    requests = [(synop(), False)] * 3
    first = list(decode(SYNOP, requests))
    assert len(first) == 3
    assert all(len(reports) == 1 for reports, _ in first)
    list(decode(TEMP, requests))
    assert list(decode(SYNOP, requests)) == first


def test_a_message_that_kills_it_costs_itself_only(tmp_path: Path) -> None:
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
    answers = list(decode(reader, [(good, False), (bad, False), (good, False)]))
    assert answers[0] == answers[2] == ([{"length": len(good)}], None)
    assert answers[1] == Undecoded("it brings ecCodes down", final=False)
