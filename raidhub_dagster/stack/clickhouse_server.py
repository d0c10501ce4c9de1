"""ClickHouse's HTTP protocol over the embedded engine, for a machine without a ClickHouse server.

`python -m raidhub_dagster.stack.clickhouse_server --path FOLDER --port PORT`. Only one process can
hold a folder of the engine, so this one holds it and everybody else uses clickhouse-connect as
with a server. Statements run one after another: the engine has one session, in which USE and SET
outlive a statement, so each statement gets its database and settings first and gives them back.

There are no users: whoever reaches 127.0.0.1 may do everything. On a cluster a real server stands
in its place. `session_id` is ignored: a temporary table or a SET lives for one request.
"""

import argparse
import asyncio
import fcntl
import json
import logging
import os
import re
import signal
import tempfile
import uuid
import zlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import lz4.frame
import zstandard
from aiohttp import web

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.stack.process import HOST, is_taken

log = logging.getLogger(__name__)

# Query string arguments that speak to the HTTP handler; all others are settings of the engine.
_TRANSPORT = frozenset(
    {
        *("query", "query_id", "database", "default_format", "user", "password", "role"),
        *("session_id", "session_timeout", "session_check", "quota_key", "stacktrace"),
        *("compress", "decompress", "buffer_size", "wait_end_of_query"),
        *("client_protocol_version", "enable_http_compression"),
    }
)

# A statement (not the data of an insert) is held in memory.
_STATEMENT_LIMIT = 64 << 20

_COMMENTS = rb"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_INSERT = re.compile(
    _COMMENTS + rb"(?P<insert>INSERT\s+INTO\s+(?:(?!\b(?:SELECT|VALUES|WITH)\b).)*?)"
    rb"(?:\bSETTINGS\s+(?P<settings>(?:(?!\bFORMAT\b).)*?))?"
    rb"\bFORMAT\s+(?P<format>\w+)[ \t;]*(?:\r?\n|\s)",
    re.IGNORECASE | re.DOTALL,
)
_SET = re.compile(r"\s*SET\s+(?!ROLE|TRANSACTION|DEFAULT)(?P<list>.+)", re.IGNORECASE | re.DOTALL)
_OWN_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)\.")

# As a server answers: syntax and types 400, what does not exist 404, everything else 500.
_STATUS = {62: 400, 46: 400, 47: 400, 53: 400, 36: 400, 115: 400, 60: 404, 81: 404}


class StatementError(Exception):
    """The engine refused; the text begins with `Code: N. DB::Exception:` as on a server."""


class _Result(Protocol):
    def bytes(self) -> bytes: ...
    def rows_read(self) -> int: ...
    def bytes_read(self) -> int: ...


class _Session(Protocol):
    """What is used of chdb's untyped session."""

    def query(self, sql: str, fmt: str, *, params: dict[str, str]) -> _Result: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Request:
    """One statement: its text, or an insert whose rows are in a file."""

    text: str
    database: str | None
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    default_format: str


class Engine:
    """The embedded engine on one folder; its statements run in one thread of their own."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigurationError when another process holds `folder`, or chdb is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        # The engine has a lock too, but reports it in a page of C++.
        self._lock = (folder / "raidhub.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigurationError(f"another process holds the folder {folder}") from None
        os.environ["TZ"] = "UTC"  # the engine takes its time zone from here, once
        try:
            from chdb.session import Session
        except ImportError:
            raise ConfigurationError(
                "the package chdb is not installed: install the extra `embedded` or set"
                " CLICKHOUSE_HOST to a server"
            ) from None
        self._session: _Session = Session(str(folder / "data"))  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    async def run(self, request: Request) -> _Result:
        """Raises StatementError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, request)

    def close(self) -> None:
        self._thread.shutdown()
        self._session.close()
        self._lock.close()

    def _run(self, request: Request) -> _Result:
        changed = set(request.settings)
        if own := _SET.match(request.text):
            changed |= set(re.findall(r"(?:^|,)\s*(\w+)\s*=", own["list"]))
        try:
            self._query(f"USE {_identifier(request.database or 'default')}")
            if request.settings:
                values = [f"{_identifier(k)} = {_text(v)}" for k, v in request.settings.items()]
                self._query("SET " + ", ".join(values))
            return self._query(request.text, request.default_format, request.parameters)
        finally:
            for name in changed:
                self._reset(name)

    def _reset(self, name: str) -> None:
        try:
            self._query(f"SET {_identifier(name)} = DEFAULT")
        except StatementError as error:
            # An unknown name: the statement was refused for it already.
            log.debug("No such setting", extra={"action": "setting_unknown", "error": str(error)})

    def _query(
        self, text: str, output: str = "TabSeparated", parameters: Mapping[str, str] | None = None
    ) -> _Result:
        try:
            return self._session.query(text, output, params=dict(parameters or {}))
        except RuntimeError as error:
            raise StatementError(str(error)) from None


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class _Decoder(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


class _Plain:
    def decompress(self, data: bytes, /) -> bytes:
        return data


def _decoder(encoding: str) -> _Decoder:
    """Raises StatementError for an encoding a client of ours never sends."""
    match encoding.lower():
        case "" | "identity":
            return _Plain()
        case "gzip" | "deflate":
            return cast(_Decoder, zlib.decompressobj(zlib.MAX_WBITS | 32))
        case "lz4":
            return cast(_Decoder, lz4.frame.LZ4FrameDecompressor())
        case "zstd":
            return cast(_Decoder, zstandard.ZstdDecompressor().decompressobj())
    raise StatementError(
        f"Code: 48. DB::Exception: Content-Encoding {encoding} is not supported. (NOT_IMPLEMENTED)"
    )


async def _decoded(request: web.Request) -> AsyncIterator[bytes]:
    decoder = _decoder(request.headers.get("Content-Encoding", ""))
    try:
        async for chunk in request.content.iter_chunked(1 << 18):
            yield decoder.decompress(chunk)
    except (zlib.error, RuntimeError, EOFError, zstandard.ZstdError) as error:
        raise StatementError(
            f"Code: 354. DB::Exception: the body cannot be decompressed: {error}. (INFLATE_FAILED)"
        ) from None


async def _receive(request: web.Request, rows: Path) -> str:
    """The statement. The data behind an `INSERT ... FORMAT x` goes to `rows`, which it then names.

    Data is told from text by the first line as bytes: Native rows are not text, and may be larger
    than memory.
    """
    head = b""
    if "query" in request.query:
        head = request.query["query"].encode() + b"\n"
    found = _INSERT.match(head)
    with rows.open("wb") as output:
        async for chunk in _decoded(request):
            if found:
                output.write(chunk)
                continue
            head += chunk
            if len(head) > _STATEMENT_LIMIT:
                raise StatementError(
                    f"Code: 62. DB::Exception: the statement is longer than {_STATEMENT_LIMIT}"
                    " bytes. (SYNTAX_ERROR)"
                )
            # The clause stands within the first 256 KiB, the engine's own limit for a statement.
            if len(head) < (1 << 18) + len(chunk) and (found := _INSERT.match(head)):
                output.write(head[found.end() :])
    if not found:
        return head.decode("utf-8", "replace")
    insert, own, data_format = (
        (part or b"").decode("utf-8", "replace").strip()
        for part in found.group("insert", "settings", "format")
    )
    settings = f" SETTINGS {own}" if own else ""
    return f"{insert} FROM INFILE {_text(str(rows))}{settings} FORMAT {data_format}"


async def _statement(request: web.Request) -> web.StreamResponse:
    engine: Engine = request.app[_ENGINE]
    query_id = request.query.get("query_id") or str(uuid.uuid4())
    headers: dict[str, str] = {"X-ClickHouse-Query-Id": query_id, "X-ClickHouse-Timezone": "UTC"}
    rows = request.app[_SPOOL] / f"{uuid.uuid4()}.rows"
    try:
        text = await _receive(request, rows)
        if not text.strip():
            return web.Response(text="Ok.\n", headers=headers)
        output = request.query.get("default_format") or "TabSeparated"
        result = await engine.run(
            Request(
                text=text,
                database=request.query.get("database")
                or request.headers.get("X-ClickHouse-Database"),
                settings={
                    name: value
                    for name, value in request.query.items()
                    if name not in _TRANSPORT and not name.startswith("param_")
                },
                parameters={
                    name.removeprefix("param_"): value
                    for name, value in request.query.items()
                    if name.startswith("param_")
                },
                default_format=output,
            )
        )
    except StatementError as error:
        code = int(found[1]) if (found := _CODE.search(str(error))) else 1000
        headers["X-ClickHouse-Exception-Code"] = str(code)
        return web.Response(
            status=_STATUS.get(code, 500), text=f"{error}\n", headers=headers, charset="utf-8"
        )
    finally:
        rows.unlink(missing_ok=True)
    own = _OWN_FORMAT.search(text)
    counts = {"read_rows": result.rows_read(), "read_bytes": result.bytes_read()}
    if " FROM INFILE " in text:
        counts |= {"written_rows": result.rows_read(), "written_bytes": result.bytes_read()}
    headers["X-ClickHouse-Format"] = str(own[1]) if own else output
    headers["X-ClickHouse-Summary"] = json.dumps({name: str(n) for name, n in counts.items()})
    response = web.Response(
        body=result.bytes(), headers=headers, content_type="application/octet-stream"
    )
    if "gzip" in request.headers.get("Accept-Encoding", "") and response.content_length:
        response.enable_compression(web.ContentCoding.gzip)
    return response


async def _ping(_request: web.Request) -> web.Response:
    return web.Response(text="Ok.\n")


_ENGINE = web.AppKey("engine", Engine)
_SPOOL = web.AppKey("spool", Path)


def application(engine: Engine, spool: Path) -> web.Application:
    """The HTTP interface of `engine`; bodies on their way wait in `spool`."""
    app = web.Application()
    app[_ENGINE] = engine
    app[_SPOOL] = spool
    app.add_routes(
        [
            web.get("/ping", _ping),
            web.get("/", _statement),
            web.post("/", _statement),
        ]
    )
    return app


async def serve(engine: Engine, spool: Path, port: int) -> None:
    """Answers until SIGTERM or SIGINT; running statements are finished."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # Bodies are decompressed here: aiohttp knows neither lz4 nor, everywhere, zstd.
    runner = web.AppRunner(
        application(engine, spool),
        auto_decompress=False,
        access_log=None,
        shutdown_timeout=30,
        max_line_size=1 << 16,  # parameters of a statement travel in the address
    )
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    log.info("Ready", extra={"action": "clickhouse_ready", "port": port})
    await stopping.wait()
    await runner.cleanup()


def main(arguments: list[str] | None = None) -> int:
    """0 after an orderly end, 1 with one line on stderr when it cannot start."""
    parser = argparse.ArgumentParser(prog="clickhouse_server", description="ClickHouse over chDB.")
    parser.add_argument("--path", type=Path, required=True, help="folder of the engine's data")
    parser.add_argument("--port", type=int, required=True, help=f"HTTP port on {HOST}")
    options = parser.parse_args(arguments)
    if is_taken(options.port):
        parser.exit(1, f"clickhouse: port {options.port} is taken\n")
    try:
        engine = Engine(options.path.resolve())
    except ConfigurationError as error:
        parser.exit(1, f"clickhouse: {error}\n")
    spool = tempfile.TemporaryDirectory(prefix="inserts-", dir=options.path)
    try:
        with spool:
            asyncio.run(serve(engine, Path(spool.name), options.port))
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
