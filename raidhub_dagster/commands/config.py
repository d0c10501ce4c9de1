"""`raidhub config`: what is set here and by whom, and the two pages that list all settings."""

import sys
from dataclasses import asdict
from textwrap import wrap

import click
import msgspec

from raidhub_dagster.configuration import examine, shown
from raidhub_dagster.settings import SECTIONS, Settings

_WIDTH = 100

_EXAMPLE = """\
# Every setting, with its default. Copy to .env and change what differs; the environment wins over
# .env, .env over what `raidhub up` chose. Values are trimmed, an empty one counts as unset.
# Made by `raidhub config example` from raidhub_dagster/settings.py.

"""

_DOCS = """\
# Configuration

Every setting is a variable of the environment or a line of `.env` in the working folder. The
environment wins over `.env`, and `.env` over `stack.env`, in which `raidhub up` keeps what it chose
for its own stack. Values are trimmed; an empty one counts as unset. The same list as a file to copy
is [example.env](../example.env).

```sh
raidhub config check            # what processes started here would see, and where it comes from
raidhub config check --json     # the same for machines
raidhub config check --strict   # before a deployment: a warning counts as an error
```

It shows no secret, connects to nobody, and exits 2 with one line for each value that cannot be, for
settings that contradict each other, and for a name in `.env` that is a setting misspelt. Warnings
are what can be meant: a missing BUNGIE_API_KEY, a burst below its rate, two equal ports.

What is marked *secret* is never logged and belongs into a secret store or into `.env`, which git
ignores. This page is made by `raidhub config docs` from `raidhub_dagster/settings.py`; a test holds
it current.
"""


@click.group()
def config() -> None:
    """Check the settings, or print the pages that list them."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.option("--strict", is_flag=True, help="A warning counts as an error.")
def check(as_json: bool, strict: bool) -> None:
    """Show every setting, its value and where it comes from, and what is wrong.

    Secrets are masked, nobody is connected to. Exit 2 when a process started here would not work.
    """
    found = examine()
    if as_json:
        click.echo(msgspec.json.encode(asdict(found)))
    else:
        for value in found.values:
            click.echo(f"{value.name:27} {value.source:11} {value.value or '-'}")
        for warning in found.warnings:
            click.echo(f"warning: {warning}", err=True)
        for problem in found.problems:
            click.echo(f"error: {problem}", err=True)
    if found.problems or (strict and found.warnings):
        sys.exit(2)


@config.command()
def example() -> None:
    """Print example.env."""
    click.echo(example_env(), nl=False)


@config.command()
def docs() -> None:
    """Print docs/configuration.md."""
    click.echo(docs_page(), nl=False)


def example_env() -> str:
    """Every setting with its meaning and its default, or an example where it has none."""
    lines = [_EXAMPLE]
    for section in SECTIONS:
        lines.append(f"# --- {_title(section)} ".ljust(_WIDTH - 1, "-") + "\n")
        for name in section.__annotations__:
            names = Settings.names(name)
            text = _meaning(name) + _also(names)
            lines += [f"# {line}\n" for line in wrap(text, _WIDTH - 2, break_on_hyphens=False)]
            field = Settings.model_fields[name]
            examples = field.examples or [_default(name)]
            mark = "" if name == "bungie_api_key" else "# "
            lines.append(f"{mark}{names[0]}={examples[0]}\n")
        lines.append("\n")
    return "".join(lines).rstrip("\n") + "\n"


def docs_page() -> str:
    """The page with a table a section."""
    lines = [_DOCS]
    for section in SECTIONS:
        lines.append(f"\n## {_title(section)}\n\n| variable | default | meaning |\n|---|---|---|\n")
        for name in section.__annotations__:
            names = Settings.names(name)
            default = f"`{value}`" if (value := _default(name)) else ""
            secret = " *Secret.*" if name.upper() in Settings.secret_variables() else ""
            text = (_meaning(name) + _also(names) + secret).replace("|", "\\|")
            lines.append(f"| `{names[0]}` | {default} | {text.replace('<', '&lt;')} |\n")
    return "".join(lines)


def _title(section: type) -> str:
    return (section.__doc__ or "").removesuffix(".")


def _meaning(name: str) -> str:
    return Settings.model_fields[name].description or ""


def _also(names: tuple[str, ...]) -> str:
    """Other names that the user's own files may carry."""
    others = [name for name in names[1:] if name.endswith(names[0])]
    return f" {', '.join(others)} is the same." if others else ""


def _default(name: str) -> str:
    """Of a secret too: what stands in the source is none."""
    value = Settings.model_fields[name].default
    secret = getattr(value, "get_secret_value", None)
    return (secret() if secret else shown(value)) or ""
