"""Archives as files and behind a web server that breaks off, stalls, changes or knows no ranges."""

import re
import threading
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import zstandard

from raidhub_dagster.stack.process import HOST
from tests.support.reports import archived, make_entry, make_report

FIRST = 16_000_000_000
NAME = "16000000000-16009999999"


def pack_lines(
    lines: Sequence[bytes], *, block_lines: int = 20, window_log: int | None = None
) -> bytes:
    """One zstd frame; what stands before a block's end can be decoded without the rest."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, **({"window_log": window_log} if window_log else {})
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = []
    for start in range(0, len(lines), block_lines):
        packed.append(packer.compress(b"".join(lines[start : start + block_lines])))
        packed.append(packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    return b"".join([*packed, packer.flush()])


def make_lines(raids: int, *, others: int = 2, first: int = FIRST) -> list[bytes]:
    """`raids` lines of raids of five players in turn, with `others` strikes after each."""
    lines = []
    for number in range(raids):
        entries = [make_entry(1 + (number + n) % 5, kills=number) for n in range(3)]
        report = make_report(
            instance_id=first + number * 10,
            period=f"2025-01-{1 + number % 28:02}T{number % 24:02}:00:00Z",
            players=entries,
            duration=3600 + number % 7,
        )
        lines.append(archived(report, is_flat=number % 5 != 0))
        lines += [
            archived(make_report(instance_id=first + number * 10 + n + 1, mode=18, hash=777))
            for n in range(others)
        ]
    return lines


def write_archive(folder: Path, lines: Sequence[bytes], name: str = NAME, **options: Any) -> Path:
    path = folder / f"{name}.jsonl.zst"
    path.write_bytes(pack_lines(lines, **options))
    return path


@dataclass
class ArchiveServer:
    """Serves `files`, and does what its switches say."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)  # answers of the next requests
    cut_after: list[int] = field(
        default_factory=list
    )  # bytes of the next answers, then it hangs up
    knows_ranges: bool = True
    tag: str = "one"
    stall_after: int | None = None  # bytes of every answer, until `release` is set
    release: threading.Event = field(default_factory=threading.Event)
    ranges: list[str] = field(default_factory=list)  # asked for
    logins: set[str] = field(default_factory=set)  # "name:password" of requests that had one


@contextmanager
def serving() -> Iterator[ArchiveServer]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
            pass

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if login := self.headers.get("Authorization", "").removeprefix("Basic "):
                state.logins.add(b64decode(login).decode())
            if state.statuses:
                self._answer(state.statuses.pop(0), b"")
            elif name in ("", "index.txt"):
                links = "".join(f'<a href="{n}">{n}</a> 1.2G\n' for n in state.files)
                self._answer(200, f"<html>{links}</html>".encode())
            elif name not in state.files:
                self._answer(404, b"")
            else:
                self._send_file(state.files[name])

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _send_file(self, body: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked and state.knows_ranges else 0
            if asked:
                state.ranges.append(asked[0])
            part = body[start:]
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{state.tag}"')
            self.send_header("Content-Length", str(len(part)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            if state.cut_after:
                self.wfile.write(part[: state.cut_after.pop(0)])
                return
            if state.stall_after is not None:
                self.wfile.write(part[: state.stall_after])
                self.wfile.flush()
                state.release.wait(60)
                part = part[state.stall_after :]
            self.wfile.write(part)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A reader that was killed is no news."""

    server = Server((HOST, 0), Handler)
    state = ArchiveServer(f"http://{HOST}:{server.server_port}/archives/")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
