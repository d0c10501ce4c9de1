"""`raidhub health`: the question a container's health check asks of the process beside it."""

import http.client
import sys

import click

from raidhub_dagster.monitoring.health import reason
from raidhub_dagster.settings import Settings

_TIMEOUT_S = 5.0
_PROCESSES = ("zeus", "atlas", "hermes", "relay")
_ABSENT = "nobody listens"


@click.command()
@click.argument("processes", nargs=-1, type=click.Choice(_PROCESSES), metavar="[PROCESS]...")
def health(processes: tuple[str, ...]) -> None:
    """Ask zeus, atlas, hermes or the relay of this machine how it does.

    Without a name: whichever of them runs. Exit 1 when one is not well, or none is there.
    """
    settings = Settings.load()
    found = {name: _ask(name, settings) for name in processes or _PROCESSES}
    if not processes:
        found = {name: problem for name, problem in found.items() if problem != _ABSENT}
    if not found:
        click.echo("no process of ours listens on this machine", err=True)
        sys.exit(1)
    for name, problem in found.items():
        click.echo(f"{name}: {problem or 'ok'}", err=problem is not None)
    if any(found.values()):
        sys.exit(1)


def _ask(process: str, settings: Settings) -> str | None:
    """None when `process` is well, else the reason in one line."""
    host, port = settings.metrics_local, getattr(settings, f"{process}_metrics_port")
    path, headers = "/healthz", {}
    if process == "zeus":
        # Answered by the loop that passes requests on; a pause that Bungie asks for is no illness
        # that a restart would cure (docs/zeus.md).
        host, port = settings.zeus_local, settings.zeus_port
        path, headers = "/", {"x-betteruptime-probe": "1"}
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
    except ConnectionRefusedError:
        return _ABSENT
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port}: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"{answer.status} {reason(body)}"
