"""The private PostgreSQL: which programs, as whom, and what is said where it cannot be."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dacycle.cycler.up import postgres
from dacycle.cycler.up.kept import Kept, UpError
from dacycle.cycler.up.postgres import DatabaseError, find_cluster, url_for_prefect

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user can only be chosen by root")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install programs of versions 15 and 17 that only tell their version."""
    for version in (15, 17):
        folder = tmp_path / f"postgresql/{version}/bin"
        folder.mkdir(parents=True)
        for name in ("initdb", "postgres", "pg_isready"):
            (folder / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}.4 (Debian)'\n")
            (folder / name).chmod(0o755)
    monkeypatch.setattr(postgres, "FOLDERS", (f"{tmp_path}/postgresql/*/bin",))
    monkeypatch.setattr(postgres.shutil, "which", lambda _: None)
    return tmp_path / "postgresql"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that the user of the database can reach, too, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_without_postgresql_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "FOLDERS", ())
    monkeypatch.setattr(postgres.shutil, "which", lambda _: None)
    with pytest.raises(DatabaseError, match=r"apt-get install postgresql.*--database sqlite"):
        find_cluster(tmp_path)


def test_the_newest_version_makes_a_cluster_and_the_same_one_opens_it(programs: Path, open_folder: Path) -> None:
    folder = open_folder / "up"
    assert find_cluster(folder).programs == programs / "17/bin"
    (folder / "data").mkdir()
    (folder / "data/PG_VERSION").write_text("15\n")
    assert find_cluster(folder).programs == programs / "15/bin"
    (folder / "data/PG_VERSION").write_text("13\n")
    with pytest.raises(DatabaseError, match=r"made by PostgreSQL 13, but installed is 15, 17: install version 13"):
        find_cluster(folder)


@needs_root
def test_root_has_it_run_as_another_user(programs: Path, open_folder: Path) -> None:
    with pytest.raises(DatabaseError, match="no user nobody-such"):
        find_cluster(open_folder / "up", "nobody-such")
    with pytest.raises(DatabaseError, match="does not run as root; name another user"):
        find_cluster(open_folder / "up", "root")
    cluster = find_cluster(open_folder / "up", "nobody")
    assert (cluster.user, cluster.folder.owner()) == ("nobody", "nobody")
    hidden = open_folder / "hidden"
    hidden.mkdir(0o700)
    with pytest.raises(DatabaseError, match=r"user nobody.* cannot enter .*hidden/up.* --state"):
        find_cluster(hidden / "up", "nobody")


def test_a_long_path_has_no_socket(tmp_path: Path) -> None:
    short = postgres.Cluster(Path("/var/lib/dacycle.up/postgres"), Path("/bin"), None)
    assert "unix_socket_directories=/var/lib/dacycle.up/postgres" in short.command(54320)
    long = postgres.Cluster(Path("/var/lib") / ("x" * 100), Path("/bin"), None)
    assert "unix_socket_directories=" in long.command(54320)


def test_a_database_that_cannot_be_asked_does_not_answer(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = postgres.Cluster(Path("/var/lib/up"), programs / "17/bin", None)
    assert cluster.answers(54320)
    (programs / "17/bin/pg_isready").unlink()
    assert not cluster.answers(54320)

    def hang(command: list[str], timeout: float) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(postgres.subprocess, "run", hang)
    assert not cluster.answers(54320)


def test_another_database_is_a_postgresql_or_sqlite() -> None:
    assert url_for_prefect("postgresql://me:word@host/name") == "postgresql+asyncpg://me:word@host/name"
    for url in ("postgresql+asyncpg://me@host/name", "sqlite+aiosqlite:////var/lib/up.db"):
        assert url_for_prefect(url) == url
    for url in ("postgres://me:word@host/name", "mysql://me:word@host/name", "me:word@host"):
        with pytest.raises(DatabaseError, match="postgresql://USER:PASSWORD@HOST/NAME or sqlite") as refused:
            url_for_prefect(url)
        assert "word" not in str(refused.value)


def test_a_port_is_kept_and_another_one_is_taken_where_it_is_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "state.json"
    with socket.socket() as one, socket.socket() as other:
        for used in (one, other):
            used.bind(("127.0.0.1", 0))
            used.listen()
        port, free = one.getsockname()[1], other.getsockname()[1]
        other.close()
        kept = Kept(file, ports={"server": port})
        assert kept.port("server", "127.0.0.1", range(free, free + 50)) != port
        assert f"port {port} of the server is taken" in caplog.text
        assert Kept.read(file).ports == kept.ports
        with pytest.raises(UpError, match=f"port {port} is taken by another program.*--port"):
            kept.port("server", "127.0.0.1", range(free, free + 50), wanted=port)
        with pytest.raises(UpError, match=r"no port is free at 127.0.0.1 for the database"):
            kept.port("database", "127.0.0.1", range(port, port + 1))
    file.write_text("{")
    with pytest.raises(UpError, match=r"state.json is damaged: delete it"):
        Kept.read(file)
