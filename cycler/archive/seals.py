"""Seals of texts: digests with which they are written, so that a byte that changes on disk is noticed.

A sealed text ends with a comment line that holds the SHA-256 of all lines before it. Files without a seal are older
than seals; they are read as they are.
"""

import hashlib
import re
from pathlib import Path

from dacycle.common.foreign import decode_text, reading
from dacycle.cycler.archive.exceptions import ArchiveError

__all__ = ["read_sealed_text", "seal_text"]

_LABEL = "# sha256 "
_DIGEST = re.compile(r"[0-9a-f]{64}\s*\Z")


def seal_text(text: str) -> bytes:
    """Return the content of a file with this text, which ends with a newline, and its seal."""
    return f"{text}{_LABEL}{_sha256(text.encode())}\n".encode()


def read_sealed_text(path: Path, remedy: str) -> tuple[str, bool]:
    """Return the text of a file, and whether it has a seal.

    Args:
        path: the file.
        remedy: what to do where it is damaged, for the message.

    Raises:
        ArchiveError: the file cannot be read, or is not the one that was written.
    """
    with reading(path, ArchiveError):
        content = path.read_bytes()
    text, label, digest = content.decode("utf-8", "replace").rpartition(_LABEL)
    if label and digest == f"{_sha256(text.encode())}\n":
        return text, True
    if label or _DIGEST.search(digest):  # without its label the digest's line is still there
        raise ArchiveError(f"{path} is damaged; {remedy}")
    return decode_text(content, path, ArchiveError), False


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
