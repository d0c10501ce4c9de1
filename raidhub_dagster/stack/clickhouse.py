"""The embedded ClickHouse as a process of the stack: how it is started and asked."""

import http.client
import sys
from dataclasses import dataclass
from pathlib import Path

from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import Launch, UnhealthyError, reach


@dataclass(frozen=True)
class ClickhouseServer:
    """The server that `settings` name, the engine's files below `folder`."""

    settings: Settings
    folder: Path
    name: str = "clickhouse"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def launch(self) -> Launch:
        module = "raidhub_dagster.stack.clickhouse_server"
        port = str(self.settings.clickhouse_http_port)
        folder = self.folder.resolve()
        return Launch(
            (sys.executable, "-m", module, "--path", str(folder), "--port", port),
            folder,
            stop_wait_s=60,  # a merge or a rebuild of a day finishes first
        )

    def probe(self) -> None:
        host, port = self.settings.clickhouse_host, self.settings.clickhouse_http_port
        reach(host, port)
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            connection.request("GET", "/ping")
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException) as error:
            raise UnhealthyError(f"/ping on {host}:{port}: {error!r}") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise UnhealthyError(f"/ping on {host}:{port}: {answer.status} {text}")
