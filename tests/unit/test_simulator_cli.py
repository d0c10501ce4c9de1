"""The simulator as a process: its flags, its state file, how it starts and stops."""

import json
import os
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner

from simulator.cli import simulate
from simulator.definitions import DEFAULT_FOLDER
from simulator.publication import Publication, Schedule


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A running simulator and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator", "--port", "0", "--calm", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "listens on " in line, line
    return process, line.split()[-1]


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    with process:
        return process.wait(timeout=20)


def state_of(address: str) -> dict[str, float]:
    with urlopen(f"{address}/sim") as answer:  # noqa: S310  our own address
        state: dict[str, float] = json.load(answer)
        return state


def test_a_restart_with_the_state_file_is_the_same_world(tmp_path: Path) -> None:
    """Otherwise a stack that comes back meets other reports under ids that it has stored."""
    arguments = ("--state", str(tmp_path / "new" / "world.json"), "--backlog", "500")
    process, address = start(*arguments)
    first = state_of(address)
    assert stop(process) == 0
    process, address = start(*arguments)
    second = state_of(address)
    assert stop(process) == 0
    assert second["epoch"] == first["epoch"]
    assert second["head"] >= first["head"] >= first["first_id"] + 499


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(simulate, ["--port", port])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--definitions", "/nowhere"], 1, "cannot read definitions"),
        (["--replay", "/nowhere"], 1, "is not a folder"),
        (["--fault", "holes=1"], 2, "holes"),
        (["--fault", "hole=often"], 2, "hole"),
        (["--epoch", "yesterday"], 2, "RFC 3339"),
        (["--rate", "0"], 2, "--rate"),
        (["--start-id", "0"], 2, "--start-id"),
        (["--burst", "-1"], 2, "--burst"),
        (["--cheaters", "0.5"], 2, "--cheaters"),
        (["--silence", "60", "--silence-every", "80"], 2, "--silence-every"),
        (["--state", "/dev/null/world.json"], 1, "/dev/null/world.json"),
    ],
)
def test_unusable_flags_are_named(arguments: list[str], code: int, says: str) -> None:
    result = CliRunner().invoke(simulate, arguments)
    assert (result.exit_code, says in result.stderr) == (code, True)


def report(instance_id: int) -> str:
    """The least that can be replayed."""
    entry = {
        "player": {
            "destinyUserInfo": {"membershipId": "1", "membershipType": 3},
            "classHash": 1,
            "emblemHash": 1,
        },
        "characterId": "1",
        "values": {},
    }
    details = {"instanceId": instance_id, "directorActivityHash": 1, "mode": 4, "membershipType": 3}
    return json.dumps(
        {"period": "2020-01-01T00:00:00Z", "activityDetails": details, "entries": [entry]}
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("report.json", "{}", "must start with the id"),
        ("12.json", "{", "12.json"),
        ("12.json", '{"Response": {"period": "2020-01-01T00:00:00Z"}}', "activityDetails"),
        ("12.json", '{"Response": {"activityDetails": {}, "entries": [[]]}}', "12.json"),
        ("12.json", report(13), "12.json: holds the report of 13"),
    ],
)
def test_unusable_replay_files_are_named(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_text(content)
    result = CliRunner().invoke(simulate, ["--replay", str(tmp_path)])
    assert (result.exit_code, says in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("activity_definition.csv", "x,Leviathan", "'x' is no id"),
        ("activity_version.csv", "1,999,1", "'999' is no activity_id"),
        ("activity_version.csv", "1,1,999", "'999' is no version_id"),
        ("version_definition.csv", "1,\udcff", "version_definition.csv"),
    ],
)
def test_unusable_definitions_are_named(tmp_path: Path, name: str, line: str, says: str) -> None:
    """Whoever adds a raid by hand sees where the mistake is."""
    for path in DEFAULT_FOLDER.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / name).open("ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")
    result = CliRunner().invoke(simulate, ["--definitions", str(tmp_path)])
    assert (result.exit_code, says in result.stderr, name in result.stderr) == (1, True, True)


@pytest.mark.parametrize("text", ["{", '{"speed": 3}', "[]"])
def test_a_broken_state_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "world.json"
    path.write_text(text)
    result = CliRunner().invoke(simulate, ["--state", str(path)])
    assert (result.exit_code, "world.json" in result.stderr) == (1, True)


def test_another_world_than_the_state_file_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "world.json")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        CliRunner().invoke(simulate, ["--state", path, "--port", port])
    result = CliRunner().invoke(simulate, ["--state", path, "--seed", "2"])
    assert (result.exit_code, "seed 1, asked for 2" in result.stderr) == (1, True)


def test_a_world_from_before_there_were_cheaters_has_none(tmp_path: Path) -> None:
    """An upgraded stack must not serve other reports under the ids that it has stored."""
    path = tmp_path / "world.json"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        CliRunner().invoke(simulate, ["--state", str(path), "--port", port])
        kept = json.loads(path.read_text())
        del kept["cheaters"]
        path.write_text(json.dumps(kept))
        same = CliRunner().invoke(simulate, ["--state", str(path), "--port", port])
    other = CliRunner().invoke(simulate, ["--state", str(path), "--cheaters", "0.1"])
    assert "cannot listen" in same.stderr
    assert (other.exit_code, "cheaters 0.0, asked for 0.1" in other.stderr) == (1, True)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(1000.0, 50.0, 100, silence_every_s=60.0, silence_s=10.0),
        Schedule(1000.0, 3.0, 1, burst_s=0.0, silence_every_s=0.0),
        Schedule(1000.0, 2000.0, 7, burst_s=30.0, flood=0.1, silence_every_s=300.0),
    ],
)
def test_the_head_never_goes_back_and_agrees_with_publication_times(schedule: Schedule) -> None:
    """Late and blocked ids are timed from their publication: both must tell the same story."""
    heads = [schedule.head(1000.0 + step / 20) for step in range(20_000)]
    assert heads == sorted(heads)
    assert heads[-1] - schedule.first_id == pytest.approx(1000 * schedule.rate, rel=0.05)
    for instance_id in range(schedule.first_id, heads[-1], max(heads[-1] // 5000, 1)):
        when = schedule.published_at(instance_id)
        assert schedule.head(when + 1e-4) >= instance_id >= schedule.head(when - 1e-4)


def test_silences_are_silent() -> None:
    """A crawler must see heads that stand still for minutes."""
    schedule = Schedule(0.0, 50.0, 1, burst_s=0.0, silence_every_s=600.0, silence_s=120.0)
    heads = [schedule.head(float(second)) for second in range(1200)]
    still = "".join("01"[a == b] for a, b in pairwise(heads))
    assert "1" * 118 in still
    assert "1" * 122 not in still


def test_a_freed_head_waits_for_its_schedule() -> None:
    now = 1000.0
    publication = Publication(Schedule(1000.0, 1.0, 1, silence_every_s=0.0), lambda: now, held=500)
    publication.release()
    assert publication.head == 500
    now = 2000.0
    assert publication.head > 900
    assert publication.published_at(500) == 1000.0
