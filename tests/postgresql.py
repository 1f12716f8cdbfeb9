"""A real PostgreSQL server for tests: of its own, empty, on this machine alone, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

# Every connection gives it, so any output that shows it has leaked it. It holds what a URL must
# encode and what a template or a format would take for its own.
PASSWORD = "n33dle:/@%{s}'"
NEEDLE = "n33dle"

# What keeps data through a power cut costs time, and these data need not survive one.
_SETTINGS = (
    "fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off",
    "shared_buffers=16MB", "listen_addresses=127.0.0.1", "unix_socket_directories=",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    port: int

    def url(self, database: str, password: str = PASSWORD) -> str:
        login = f"tester:{quote(password, safe='')}"
        return f"postgresql+psycopg://{login}@127.0.0.1:{self.port}/{database}"

    def ask(self, query: str, database: str = "postgres") -> list[Any]:
        """The first column of what a query gives, or nothing for a command."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="tester",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        ) as connection:
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return [row[0] for row in cursor] if cursor.description else []

    def empty(self, database: str) -> None:
        """Empty all tables: a new database for each test would be 300 files for each."""
        tables = self.ask(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
            "AND tablename NOT IN ('alembic_version', 'version_info')",
            database,
        )
        self.ask(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY", database)


def programs() -> Path | None:
    """The folder of the newest `initdb` on this machine, which Debian keeps off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb")
    return debian[-1].parent if debian else Path(found).parent if found else None


@contextmanager
def serve(programs: Path) -> Iterator[Server]:
    """Run a server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="bench-postgresql-") as folder:
        port = _free_port()
        data, password = Path(folder, "data"), Path(folder, "password")
        password.write_text(PASSWORD)
        rights = _rights(folder, password)
        _run(
            [
                programs / "initdb", "--pgdata", data, "--auth", "scram-sha-256", "--username",
                "tester", "--pwfile", password, "--no-locale", "--encoding", "UTF8", "--no-sync",
            ],
            rights,
        )  # fmt: skip
        control = [programs / "pg_ctl", "--pgdata", data, "--wait", "--silent"]
        options = " ".join(f"-c {setting}" for setting in (*_SETTINGS, f"port={port}"))
        _run([*control, "--log", Path(folder, "log"), "--options", options, "start"], rights)
        try:
            yield Server(port)
        finally:
            _run([*control, "--mode", "immediate", "stop"], rights)


def _rights(folder: str, *files: Path) -> dict[str, Any]:
    """Whom to run as: the server refuses root, so then somebody else owns its files."""
    if os.geteuid() != 0:
        return {}
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = known.get("postgres", known["nobody"])
    for path in (folder, *files):
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _run(command: list[Any], rights: dict[str, Any]) -> None:
    # Not captured: the server inherits the streams, and a pipe would stay open as long as it runs.
    subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.DEVNULL, cwd="/", **rights
    )


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
