"""`raidhub up`, `down`, `status`, `logs`, `env`: the stack of the folder one stands in."""

import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import click
import msgspec

from raidhub_dagster.commands.overview import stream_lines
from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.environment import Environment
from raidhub_dagster.stack.lifecycle import Stack
from raidhub_dagster.stack.overview import look


def here() -> Stack:
    """The stack of RAIDHUB_HOME, as a person configured it."""
    # The drivers tell each refused connection at length; `status` says it in one line.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    return Stack(Environment(Settings.load(stack_env=False)))


@click.command()
@click.option(
    "--without", multiple=True, metavar="SERVICE", help="Leave it out; can be given again."
)
@click.option("--foreground", is_flag=True, help="Stay, and end the stack with this command.")
def up(without: tuple[str, ...], foreground: bool) -> None:
    """Start the stack and wait until every service answers."""
    stack = here()
    process = stack.up(click.echo, without=without, tied=foreground)
    click.echo(f"Dagster: {stack.address}")
    if not foreground or process is None:
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        process.wait()
    finally:
        stack.down(click.echo)


@click.command()
def down() -> None:
    """Stop everything that `up` started."""
    here().down(click.echo)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def status(as_json: bool) -> None:
    """Say what runs, what is unhealthy and why, and how the stream does.

    Exit 1 unless every service is healthy.
    """
    stack = here()
    processes = stack.supervisor.running()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look, stack.environment.settings, processes)
        services = stack.health()
        overview = looking.result()
    if as_json:
        summary = {"services": [s._asdict() for s in services], "stream": overview.as_json()}
        click.echo(msgspec.json.encode(summary))
    else:
        for service in services:
            word = "healthy" if service.problem is None else "UNHEALTHY"
            click.echo(
                f"{service.name:18} {service.state:9} {word:10} {service.problem or ''}".rstrip()
            )
        click.echo()
        for line in stream_lines(overview):
            click.echo(line)
    if any(service.problem is not None for service in services):
        sys.exit(1)


@click.command()
@click.argument("service", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written.")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0))
def logs(service: str | None, follow: bool, lines: int) -> None:
    """Show the newest lines of all services, or of SERVICE."""
    folder = here().supervisor.logs
    known = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if not known:
        raise ConfigurationError(f"there are no logs in {folder}; raidhub up makes them")
    if service is not None and service not in known:
        raise ConfigurationError(f"no log of {service}; there are: {', '.join(known)}")
    paths = list(known.values()) if service is None else [known[service]]
    command = ["tail", f"--lines={lines}", *(["-F"] if follow else []), *map(str, paths)]
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606  no shell wanted


@click.command()
def env() -> None:
    """Print the stack's environment for `eval "$(raidhub env)"`."""
    environment = here().environment
    if not (environment.home / "stack.env").exists():
        raise ConfigurationError("there is no stack here yet; start one with: raidhub up")
    click.echo(environment.exports())
