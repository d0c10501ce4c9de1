"""A private PostgreSQL server from the system's binaries: its files, its options, its health.

It shares nothing with the system's own cluster but the programs. It listens on TCP only: a socket
file would need a path shorter than 108 bytes, which a deep home directory does not leave.
"""

import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, Launch, UnhealthyError, find_program
from raidhub_dagster.storage import postgres

_DEBIAN = Path("/usr/lib/postgresql")
_ELSEWHERE = Path("/var/lib/raidhub")  # clusters of root whose own folders are closed to others
_MIB = 1 << 20


@dataclass(frozen=True)
class PostgresServer:
    """The server that `settings` name, its files below `folder`.

    Not `durable`, it may lose the last seconds in a power cut, which only tests accept.
    """

    settings: Settings
    folder: Path
    durable: bool = True
    name: str = "postgres"

    def prepare(self) -> None:
        """Makes the cluster when there is none and writes its options; safe to run again."""
        data = self._data()
        if not (data / "PG_VERSION").exists():
            self._initialise(data)
        options = _options(self.settings.postgres_port, durable=self.durable)
        (data / "postgresql.conf").write_text(options, "utf-8")

    def launch(self) -> Launch:
        data = self._data()
        return Launch(
            command=(find_binary(self.settings, "postgres"), "-D", str(data)),
            folder=data,
            user=_user(),
            stop_signal=signal.SIGINT,  # "fast": rolls back what is open, writes a checkpoint
            stop_wait_s=60,
        )

    def probe(self) -> None:
        try:
            postgres.connect(self.settings, "raidhub probe", database="postgres").close()
        except psycopg2.OperationalError as error:
            raise UnhealthyError(first_line(error)) from None

    def _data(self) -> Path:
        folder = self.folder.resolve()
        user = _user()
        return folder if user is None else _reachable(folder, user)

    def _initialise(self, data: Path) -> None:
        password = self.settings.postgres_password
        if password is None or self.settings.postgres_user is None:
            raise ConfigurationError("POSTGRES_USER and POSTGRES_PASSWORD are needed for initdb")
        # What an interrupted initdb left is no cluster: nothing in it can be anybody's data.
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700, parents=True)
        secret = data.with_name(f"{data.name}.password")
        secret.touch(mode=0o600)
        secret.write_text(password.get_secret_value(), "utf-8")
        user = _user()
        become: dict[str, int | list[int]] = {}
        if user is not None:
            entry = pwd.getpwnam(user)
            for path in (data, secret):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            become = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        # Data checksums find a bad disk before a bad row finds us; C sorts by bytes, the same on
        # every machine and version of the system's library.
        command = [
            find_binary(self.settings, "initdb"),
            f"--pgdata={data}",
            f"--username={self.settings.postgres_user}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--data-checksums",
        ]
        if not self.durable:
            command.append("--no-sync")
        try:
            done = subprocess.run(  # type: ignore[call-overload]  # noqa: S603  a command of ours; typeshed knows no **become
                command, cwd=data, capture_output=True, text=True, check=False, **become
            )
        finally:
            secret.unlink()
        if done.returncode != 0:
            shutil.rmtree(data)
            reason = done.stderr.strip().replace("\n", " / ")
            raise ConfigurationError(f"initdb failed in {data}: {reason}")


def first_line(error: BaseException) -> str:
    """The driver's own words, one line; libpq explains a refused connection in several."""
    return " ".join(str(error).split()) or type(error).__name__


def find_binary(settings: Settings, name: str) -> str:
    """POSTGRES_BIN, else Debian's newest version, else PATH. Raises ConfigurationError."""
    if settings.postgres_bin is not None:
        path = settings.postgres_bin / name
        if not os.access(path, os.X_OK):
            raise ConfigurationError(f"RAIDHUB_POSTGRES_BIN: there is no {path}")
        return str(path)
    versions = [p for p in _DEBIAN.glob("*/bin") if re.fullmatch(r"\d+", p.parent.name)]
    return find_program(name, *sorted(versions, key=lambda p: -int(p.parent.name)))


def _user() -> str | None:
    """Whom the server runs as when we are root, which it refuses; None: ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def _reachable(folder: Path, user: str) -> Path:
    """`folder`, or when `user` cannot walk to it (a private /root) one of ours in /var/lib.

    The other place carries a digest of the first, so that two checkouts never share data, and
    `folder` becomes a link to it, so that a person finds it.
    """
    if folder.is_symlink():
        return folder.resolve()
    if all(_walkable(parent, user) for parent in folder.parents):
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    other = _ELSEWHERE / digest / folder.name
    other.parent.mkdir(parents=True, exist_ok=True)
    for parent in (_ELSEWHERE, other.parent):
        parent.chmod(0o711)  # mkdir's own mode would bow to the umask
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(other)
    return other


def _walkable(folder: Path, user: str) -> bool:
    if not folder.exists():
        return True  # will be made by us, open to walkers
    entry, status = pwd.getpwnam(user), folder.stat()
    if status.st_uid == entry.pw_uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == entry.pw_gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def _options(port: int, *, durable: bool) -> str:
    """`postgresql.conf`, written for the reference machine (2 cores, 24 GiB) and smaller ones."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # 1 GiB holds the hot tables and indexes of a year of raids; a sixteenth leaves a laptop usable.
    shared = max(128 * _MIB, min(1024 * _MIB, memory // 16)) if durable else 128 * _MIB
    on = "on" if durable else "off"
    return f"""\
# Written by `raidhub up` at each start: changes made here are lost.
listen_addresses = '{HOST}'
port = {port}
unix_socket_directories = ''
timezone = 'UTC'
log_timezone = 'UTC'
max_connections = 200            # hermes, relay and atlas 20, every Dagster run up to 10
shared_buffers = {shared // _MIB}MB
effective_cache_size = {memory // _MIB // 2}MB
work_mem = 32MB                  # leaderboards sort a row a player
maintenance_work_mem = 256MB
random_page_cost = 1.1           # flash storage: random reads cost little more than sequential ones
max_locks_per_transaction = 256  # every test database has 60 tables, each with its indexes

# What a COMMIT answers is on the disk.
fsync = {on}
synchronous_commit = {on}
full_page_writes = {on}

# The store writes without pause: few, long checkpoints, spread out, and half the log volume.
max_wal_size = 4GB
checkpoint_timeout = 15min
checkpoint_completion_target = 0.9
wal_compression = lz4            # pglz costs a refresh of the raid board 16 s more of a core
wal_buffers = 16MB

jit = off                        # compiling costs more than our short statements last
autovacuum_vacuum_insert_scale_factor = 0.05
log_line_prefix = '%m [%p] %a: '
log_lock_waits = on
log_min_duration_statement = 10s
"""
