"""A private PostgreSQL for a Prefect server: made with the system's programs, reached over loopback with a password."""

import os
import pwd
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dacycle.common.errors import DacycleError
from dacycle.common.files import whole

__all__ = ["Cluster", "DatabaseError", "as_user", "find_cluster", "url_for_prefect"]

NAME = "dacycle"
"""Name of the role and of the database."""

FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
"""Where Debian and Red Hat keep the programs, which are on no PATH."""

LONGEST_SOCKET = 107
"""Bytes of a socket's path that Linux takes."""

INSTALL = (
    "install PostgreSQL (Debian: apt-get install postgresql), name a database with "
    "--database postgresql://USER:PASSWORD@HOST/NAME, or go without by --database sqlite"
)


class DatabaseError(DacycleError, RuntimeError):
    """The private PostgreSQL cannot be made or started; says why, and the remedy."""


@dataclass(frozen=True)
class Cluster:
    """Hold a cluster of databases.

    Attributes:
        folder: its folder, which belongs to `user`.
        programs: folder of `initdb`, `postgres` and `pg_isready`.
        user: the system's user that its processes run as; None: the present one.
    """

    folder: Path
    programs: Path
    user: str | None

    @property
    def data(self) -> Path:
        """Return the folder of the data."""
        return self.folder / "data"

    def make(self) -> None:
        """Make the cluster and its database, unless they are there.

        Raises:
            DatabaseError: `initdb` or `postgres` fail.
        """
        if self.data.exists():
            return
        password = self.folder / "password"
        password.touch(0o600)
        password.write_text(secrets.token_urlsafe(24))
        self._own(password)
        with whole(self.data) as part:
            part.mkdir(0o700)
            self._own(part)
            self._run(
                ["initdb", f"--pgdata={part}", f"--username={NAME}", f"--pwfile={password}", "--auth=scram-sha-256",
                 "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions"]
            )  # fmt: skip
            self._run(["postgres", "--single", "-D", str(part), "postgres"], f"CREATE DATABASE {NAME};\n")

    def command(self, port: int) -> list[str]:
        """Return the command that runs it, on a port of 127.0.0.1 and, if its path is short enough, a socket."""
        fits = len(os.fsencode(self.folder / f".s.PGSQL.{port}")) <= LONGEST_SOCKET
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": self.folder if fits else "",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), *options]

    def url(self, port: int) -> str:
        """Return its address for Prefect, with the password."""
        password = (self.folder / "password").read_text()
        return f"postgresql+asyncpg://{NAME}:{password}@127.0.0.1:{port}/{NAME}"

    def answers(self, port: int) -> bool:
        """Return whether it takes connections; False also where that cannot be found out now."""
        asked = [str(self.programs / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={port}", "--timeout=3"]
        try:
            return subprocess.run(asked, timeout=10).returncode == 0
        except (subprocess.TimeoutExpired, OSError):
            return False

    def _own(self, path: Path) -> None:
        if self.user is not None:
            shutil.chown(path, self.user, pwd.getpwnam(self.user).pw_gid)

    def _run(self, command: list[str], given: str = "") -> None:
        program = str(self.programs / command[0])
        done = subprocess.run(
            [program, *command[1:]],
            input=given,
            capture_output=True,
            text=True,
            timeout=300,
            cwd="/",
            **as_user(self.user),
        )
        if done.returncode != 0:
            raise DatabaseError(f"{program} failed in {self.folder}: {done.stderr.strip() or done.stdout.strip()}")


def as_user(user: str | None) -> dict[str, Any]:
    """Return the arguments that let `subprocess` run a process as another user, with no groups but its own."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def url_for_prefect(url: str) -> str:
    """Return the address of a database with the driver that Prefect needs.

    Raises:
        DatabaseError: it is of another kind.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "postgresql":
        return f"postgresql+asyncpg://{rest}"
    if scheme not in ("postgresql+asyncpg", "sqlite+aiosqlite"):
        raise DatabaseError("a database is named as postgresql://USER:PASSWORD@HOST/NAME or sqlite, by no other scheme")
    return url


def find_cluster(folder: Path, user: str | None = None) -> Cluster:
    """Return the cluster of a folder, which is made if need be, with the programs that fit it.

    Args:
        folder: of the cluster.
        user: that its processes run as where the present one is root; None: `postgres`.

    Raises:
        DatabaseError: PostgreSQL is not installed, or not in the version that made the cluster; it would run as
            root; or its user cannot reach the folder.
    """
    installed = dict(_installed())
    if not installed:
        raise DatabaseError(f"PostgreSQL is not installed: {INSTALL}")
    made = folder / "data/PG_VERSION"
    version = int(made.read_text()) if made.exists() else max(installed)
    if version not in installed:
        raise DatabaseError(
            f"{folder} was made by PostgreSQL {version}, but installed is {', '.join(map(str, sorted(installed)))}: "
            f"install version {version}, or delete the folder (no cycle is in it, only Prefect's record of past runs)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(folder.resolve(), installed[version], _user(user))
    _check_reach(cluster)
    return cluster


def _installed() -> Iterator[tuple[int, Path]]:
    """Yield the versions that are installed, the one on PATH last, each with the folder of its programs."""
    folders = [path for pattern in FOLDERS for path in sorted(Path("/").glob(pattern[1:]))]
    on_path = shutil.which("initdb")
    for programs in [*folders, *([Path(on_path).resolve().parent] if on_path else [])]:
        if all((programs / name).exists() for name in ("initdb", "postgres", "pg_isready")):
            said = subprocess.run(
                [programs / "postgres", "--version"], capture_output=True, text=True, timeout=30
            ).stdout
            if version := re.search(r"\) (\d+)", said):
                yield int(version[1]), programs


def _user(user: str | None) -> str | None:
    if os.geteuid() != 0:
        if user is not None:
            raise DatabaseError(f"--user {user}: only root can start processes as another user; leave it out")
        return None
    try:
        if pwd.getpwnam(user or "postgres").pw_uid == 0:
            raise DatabaseError(f"--user {user}: PostgreSQL does not run as root; name another user")
    except KeyError:
        raise DatabaseError(
            f"PostgreSQL does not run as root, and there is no user {user or 'postgres'}: run `dacycle up` as another "
            "user, or name one that exists with --user"
        ) from None
    return user or "postgres"


def _check_reach(cluster: Cluster) -> None:
    """Give the folder to the user of the processes, and refuse one that this user cannot enter."""
    cluster.folder.chmod(0o700)
    cluster._own(cluster.folder)
    if cluster.user is None:
        return
    asked = ["test", "-w", str(cluster.folder), "-a", "-x", str(cluster.folder)]
    if subprocess.run(asked, timeout=30, cwd="/", **as_user(cluster.user)).returncode != 0:
        raise DatabaseError(
            f"user {cluster.user}, which PostgreSQL runs as, cannot enter {cluster.folder}: choose a folder that it "
            "can reach with --state, e.g. below /var/lib, or run `dacycle up` as a user other than root"
        )
