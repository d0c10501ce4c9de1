"""Where archives are: files of a folder, or of a web server below one address.

Only names and bytes; what the bytes mean is `storage/archive.py`. A broken connection is taken up
again where it broke. Rules: docs/domain/archives.md.
"""

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

import requests
from urllib3.exceptions import HTTPError

from raidhub_dagster.errors import ConfigurationError, PermanentError, TransientError
from raidhub_dagster.storage.archive import ARCHIVE_SUFFIX

_NAME = re.compile(rf"(?<![\w.-])\d+-\d+(?={re.escape(ARCHIVE_SUFFIX)}(?![\w.]))", re.ASCII)
_TIMEOUT_S = (10.0, 60.0)  # to connect, between two reads
_INDEX_TIMEOUT_S = 10.0
_MAX_INDEX_BYTES = 32 << 20
_CHUNK_BYTES = 256 << 10
# Connections without a byte, one after another, until the download counts as failed.
_TRIES = 6
_LONGEST_PAUSE_S = 30.0
_WORTH_A_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})


class Span(NamedTuple):
    """The ids that an archive or a partition of reports is about, both ends included."""

    first_id: int
    last_id: int

    @property
    def name(self) -> str:
        return f"{self.first_id}-{self.last_id}"


def read_span(name: str) -> Span:
    """The span of the name `<from>-<to>`. Raises PermanentError."""
    first, dash, last = name.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise PermanentError(f"{name!r} names no range of ids: <from>-<to> expected")
    return Span(int(first), int(last))


@dataclass
class OpenArchive:
    """An archive that is being read. `version` is another one when the file was changed."""

    stream: BinaryIO  # compressed
    version: str
    size_bytes: int | None
    read_bytes: Callable[[], int]  # so far, compressed


class Source(Protocol):
    """`place` is told to people."""

    place: str

    def names(self) -> list[str]:
        """Names of the archives without suffix, by first id."""

    def opened(self, name: str) -> AbstractContextManager[OpenArchive]:
        """The archive, closed at the end. Raises PermanentError when there is none."""


def find_source(location: str | None, index: str = "") -> Source:
    """The source that the setting names: a folder, or an address of http or https.

    Raises ConfigurationError.
    """
    if not location:
        raise ConfigurationError("ARCHIVE_SOURCE is not set: a folder or an http(s) address")
    if location.startswith(("http://", "https://")):
        return WebSource(location, index)
    if "://" in location:
        told = without_login(location)
        raise ConfigurationError(f"ARCHIVE_SOURCE: {told!r} is neither a folder nor http(s)")
    return FolderSource(Path(location))


def without_login(url: str) -> str:
    """The address without the name and password that may stand in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class FolderSource:
    """Archives as files of one folder; what lies deeper or has another name is none."""

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self._folder = folder

    def names(self) -> list[str]:
        try:
            files = [p.name for p in self._folder.iterdir()]
        except OSError as error:
            raise ConfigurationError(f"ARCHIVE_SOURCE: {self.place}: {error.strerror}") from None
        return _named("\n".join(files))

    @contextmanager
    def opened(self, name: str) -> Iterator[OpenArchive]:
        path = self._folder / _file_of(name)
        try:
            file = path.open("rb")
        except OSError as error:
            raise PermanentError(f"{path}: {error.strerror}") from None
        with file:
            state = path.stat()
            yield OpenArchive(
                file, f"{state.st_size}:{state.st_mtime_ns}", state.st_size, file.tell
            )


class WebSource:
    """Archives below one address, listed by whatever text there names them.

    A server's own page of a folder, a plain list and JSON all do: names are looked for, not links.
    """

    def __init__(
        self, prefix: str, index: str = "", *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._prefix = prefix.rstrip("/") + "/"
        self.place = without_login(self._prefix)
        self._index = index.lstrip("/")
        self._sleep = sleep

    def names(self) -> list[str]:
        url, told = self._prefix + self._index, self.place + self._index
        try:
            with requests.get(url, stream=True, timeout=_INDEX_TIMEOUT_S) as answer:
                _check_status(answer, told)
                text = answer.raw.read(_MAX_INDEX_BYTES + 1, decode_content=True)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise TransientError(f"{told}: {error}") from error
        if len(text) > _MAX_INDEX_BYTES:
            raise PermanentError(f"{told}: an index of more than {_MAX_INDEX_BYTES} bytes")
        return _named(text.decode("utf-8", "replace"))

    @contextmanager
    def opened(self, name: str) -> Iterator[OpenArchive]:
        url = self._prefix + _file_of(name)
        with (
            requests.Session() as session,
            io.BufferedReader(
                download := Download(session, url, sleep=self._sleep), _CHUNK_BYTES
            ) as stream,
        ):
            download.connect()
            yield OpenArchive(stream, download.version, download.size, download.tell)


class Download(io.RawIOBase):
    """The bytes of one address from the first to the last, over as many connections as it takes.

    Raises PermanentError when the server refuses, TransientError when it stays away or the file
    changes meanwhile.
    """

    def __init__(
        self, session: requests.Session, url: str, *, sleep: Callable[[float], None]
    ) -> None:
        self.version = ""
        self.size: int | None = None
        self._session = session
        self._url = url
        self._told = without_login(url)
        self._sleep = sleep
        self._answer: requests.Response | None = None
        self._position = 0
        self._failures = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, target: memoryview, /) -> int:  # type: ignore[override]  # typeshed's Buffer
        """Some bytes; 0 at the end of the file only."""
        while self.size is None or self._position < self.size:
            try:
                # What has come, not all that was asked for: a slow server must not hold lines back.
                found: bytes = self._connect().raw.read1(len(target))
            except (requests.RequestException, HTTPError, OSError) as error:
                self._fail(error)
                continue
            if found:
                self._failures = 0
                self._position += len(found)
                target[: len(found)] = found
                return len(found)
            if self.size is None:
                return 0
            self._fail(f"ended after {self._position} of {self.size} bytes")
        return 0

    def connect(self) -> None:
        """Opens the first connection: from now on `version` and `size` are known."""
        while self._answer is None:
            try:
                self._connect()
            except (requests.RequestException, HTTPError, OSError) as error:
                self._fail(error)

    def close(self) -> None:
        self._drop()
        super().close()

    def _connect(self) -> requests.Response:
        if self._answer is not None:
            return self._answer
        headers = {"Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        answer = self._session.get(self._url, headers=headers, stream=True, timeout=_TIMEOUT_S)
        try:
            _check_status(answer, self._told)
            self._compare(answer)
            if self._position and answer.status_code != 206:
                _discard(answer, self._position)  # a server that knows no ranges
        except BaseException:
            answer.close()
            raise
        self._answer = answer
        return answer

    def _compare(self, answer: requests.Response) -> None:
        length = answer.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        if answer.status_code == 206:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = int(total) if total.isdecimal() else None
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        version = f"{size}:{mark}"
        if self.version not in ("", version):
            raise TransientError(f"{self._told}: changed while it was read")
        self.version, self.size = version, size

    def _fail(self, reason: object) -> None:
        """Pauses before the next connection. Raises TransientError after the last one."""
        self._drop()
        self._failures += 1
        if self._failures == _TRIES:
            raise TransientError(f"{self._told}: {reason}")
        self._sleep(min(2.0 ** (self._failures - 1), _LONGEST_PAUSE_S))

    def _drop(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()


def _check_status(answer: requests.Response, url: str) -> None:
    status = answer.status_code
    if status in _WORTH_A_TRY:
        raise requests.HTTPError(f"HTTP {status}")
    if status == 416:
        raise TransientError(f"{url}: became shorter while it was read")
    if status not in (200, 206):
        raise PermanentError(f"{url}: HTTP {status}", {"status": status})


def _discard(answer: requests.Response, size: int) -> None:
    while size:
        found = len(answer.raw.read(min(size, 1 << 20)))
        if not found:
            raise requests.ConnectionError("ended before the place where it broke")
        size -= found


def _file_of(name: str) -> str:
    read_span(name)  # so that no name leads out of the folder
    return name + ARCHIVE_SUFFIX


def _named(text: str) -> list[str]:
    spans = {}
    for name in _NAME.findall(text):
        first, _, last = name.partition("-")
        if int(first) <= int(last):
            spans[name] = int(first)
    return sorted(spans, key=lambda name: (spans[name], name))
