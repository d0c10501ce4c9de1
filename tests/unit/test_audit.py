"""`make audit`: what pip-audit passes over in silence must not look like a clean bill."""

import datetime
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from raidhub_dagster.stack.process import free_port

ROOT = Path(__file__).resolve().parents[2]
TODAY = datetime.date(2026, 11, 29)
LOCK = "requests==2.32.0 \\\n    --hash=sha256:00\nzipp==3.1.0 ; python_version >= '3.9'\n"
FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.32.9"], "description": "a\nb"}
EXCUSE = "ignored = [{id = 'CVE-1', package = 'requests', reason = 'why', until = 2026-12-01}]"


def _load() -> Any:
    spec = spec_from_file_location("audit", ROOT / "deploy" / "audit" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit = _load()


def report(**vulnerabilities: list[Any]) -> dict[str, Any]:
    packages = [{"name": n, "version": "1", "vulns": v} for n, v in vulnerabilities.items()]
    return {"dependencies": packages}


def lines(told: dict[str, Any], excuses: str = "ignored = []") -> list[str]:
    names = audit.pinned(LOCK)
    return list(audit.problems(told, names, audit.read_ignored(excuses), TODAY))


def test_the_lock_is_read_to_its_last_package() -> None:
    """A package that is not recognised would never be missed."""
    text = (ROOT / "requirements.lock").read_text("utf-8")
    names = audit.pinned(text)
    assert {"dagster", "psycopg2-binary", "yoyo-migrations"} <= names
    assert len(names) >= text.count("==") - 40  # markers of other machines
    assert audit.pinned("a==1 ; sys_platform == 'nowhere'\nb-C.d==2\n") == {"b-c-d"}


def test_a_clean_report_of_every_package_is_no_problem() -> None:
    assert lines(report(requests=[], zipp=[])) == []


@pytest.mark.parametrize(
    "told",
    [
        report(requests=[]),
        {
            "dependencies": [
                {"name": "requests", "version": "1", "vulns": []},
                {"name": "zipp", "skip_reason": "Dependency not found on PyPI"},
            ]
        },
    ],
    ids=["missing", "skipped"],
)
def test_a_package_that_nobody_looked_at_fails(told: dict[str, Any]) -> None:
    """pip-audit itself says "no known vulnerabilities" then."""
    (line,) = lines(told)
    assert line.startswith("1 of 2 packages were not looked at: zipp.")


def test_a_finding_names_package_cure_and_reason() -> None:
    (line,) = lines(report(requests=[FOUND], zipp=[]))
    assert line == "requests 1: PYSEC-1, mended in 2.32.9: a b"


def test_an_exception_holds_by_any_name_until_its_day() -> None:
    """Advisories have several names, and a reason that was good in spring may not be in autumn."""
    told = report(requests=[FOUND], zipp=[])
    assert lines(told, EXCUSE) == []
    (line,) = lines(told, EXCUSE.replace("2026-12-01", "2026-11-28"))
    assert "CVE-1 of requests was to be looked at by 2026-11-28" in line
    assert len(lines(report(requests=[], zipp=[FOUND]), EXCUSE)) == 2, "another package's is not it"


def test_an_exception_without_its_vulnerability_is_to_go() -> None:
    (line,) = lines(report(requests=[], zipp=[]), EXCUSE)
    assert "nothing answers to CVE-1 of requests" in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ignored = [", "no TOML"),
        ("", "a list named"),
        ("ignored = []\nmore = 1", "a list named"),
        ("ignored = [1]", "entry 1 must have id, package, reason, until"),
        (EXCUSE.replace("reason = 'why'", "reason = ''"), "entry 1: reason must be a str"),
        (EXCUSE.replace("2026-12-01", "'soon'"), "entry 1: until must be a date"),
        (EXCUSE.replace("id =", "name ="), "entry 1 must have"),
    ],
)
def test_a_bad_list_of_exceptions_is_named(text: str, told: str) -> None:
    """An entry without a reason, or without an end, is a hole that nobody closes."""
    with pytest.raises(audit.WrongListError, match=told):
        audit.read_ignored(text)


def test_the_committed_list_is_good() -> None:
    audit.read_ignored((ROOT / "deploy" / "audit" / "ignored.toml").read_text("utf-8"))


# --- the real pip-audit, and a vulnerability service of our own


class _Osv(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        affected = [{"package": {"name": name, "ecosystem": "PyPI"}}]
        known = [{"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "bad", "affected": affected}]
        body = json.dumps({"vulns": known} if name == "requests" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the base class
        """Nobody reads them."""


@pytest.fixture
def osv() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Osv) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "requirements.lock").write_text("requests==2.32.0\nzipp==3.1.0\n", "utf-8")
    (tmp_path / "ignored.toml").write_text("ignored = []", "utf-8")
    return {"lock": tmp_path / "requirements.lock", "exceptions": tmp_path / "ignored.toml"}


def test_a_known_vulnerability_ends_with_1(
    files: dict[str, Path], osv: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--", "-s", "osv", "--osv-url", osv, "--cache-dir", str(tmp_path / "cache")]
    assert audit.main(own, **files) == 1
    assert (
        capsys.readouterr().err
        == "audit: requests 2.32.0: PYSEC-1, mended in no version yet: bad\n"
    )


def test_a_service_that_is_away_ends_with_1(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = f"http://127.0.0.1:{free_port()}/v1/query"
    assert audit.main(["-s", "osv", "--osv-url", away, "--cache-dir", str(tmp_path)], **files) == 1
    told = capsys.readouterr().err
    assert told.startswith("audit: the vulnerability service did not answer: ")
    assert len(told.splitlines()) == 1


def test_a_bad_list_ends_with_2(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    files["exceptions"].write_text("ignored = 1", "utf-8")
    assert audit.main([], **files) == 2
    assert "ignored.toml: it holds a list" in capsys.readouterr().err
