"""Doubles of the public archives of observations: `server` serves a folder on loopback, `content` fills one.

Tests start `serving(folder)`, or from a shell `python -m tests.archives.server FOLDER`; `DACYCLE_MIRROR` or `--mirror`
then names its address.
"""
