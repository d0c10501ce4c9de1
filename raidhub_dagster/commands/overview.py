"""The summary below `raidhub status`: a line a subject, `-` and why where nobody answered."""

from collections.abc import Iterator
from datetime import timedelta

from raidhub_dagster.messaging.overview import QueueState
from raidhub_dagster.stack.overview import Crawl, Overview, Proxy
from raidhub_dagster.storage.progress import Stream

_WIDTH = 11  # of the first column


def stream_lines(found: Overview) -> Iterator[str]:
    """Lines for a terminal."""
    problems = found.problems
    if found.crawl is not None or "atlas" in problems:
        yield _line(
            "crawl", None if found.crawl is None else _crawl(found.crawl), problems, "atlas"
        )
    for name, text in _stream(found.stream):
        yield _line(name, text, problems, "postgres")
    queues = None if found.queues is None else _queues(found.queues)
    yield _line("queues", queues, problems, "rabbitmq")
    if found.zeus is not None or "zeus" in problems:
        yield _line("zeus", None if found.zeus is None else _zeus(found.zeus), problems, "zeus")


def _line(name: str, text: str | None, problems: dict[str, str], source: str) -> str:
    why = problems.get(source, "not measured")
    return f"{name:{_WIDTH}} {text or f'- ({why})'}"


def _crawl(crawl: Crawl) -> str:
    parts = [
        f"head {_or_dash(crawl.head_id)}",
        f"{crawl.mode or 'no regime yet'}, {_or_dash(crawl.workers)} workers",
        f"lag P20 {'-' if crawl.lag_p20_s is None else _age(crawl.lag_p20_s)}",
    ]
    if crawl.systems_off:
        parts.append(f"switched off by Bungie: {', '.join(crawl.systems_off)}")
    return " | ".join(parts)


def _stream(stream: Stream | None) -> Iterator[tuple[str, str | None]]:
    if stream is None:
        yield from dict.fromkeys(("rates", "newest", "missed", "outbox", "clickhouse")).items()
        return
    ids, raids = stream.ids_last_minute / 60, stream.raids_last_minute / 60
    yield "rates", f"{ids:.1f} ids/s, {raids:.1f} raids/s in the last minute"
    newest = "no raid stored yet"
    if stream.newest_id is not None and stream.newest_age_s is not None:
        newest = f"raid {stream.newest_id} ended {_age(stream.newest_age_s)} ago"
        if stream.newest_stored_s is not None:
            newest += f", stored {_age(stream.newest_stored_s)} ago"
    yield "newest", newest
    missed = ", ".join(f"{state} {rows}" for state, rows in stream.missed.items() if rows)
    gaps = f"{stream.open_gaps} open gaps ({stream.open_gap_ids} ids)"
    yield "missed", f"{missed or 'none'}; {gaps if stream.open_gaps else 'no open gap'}"
    yield "outbox", _waiting(stream.unsent, "unsent", stream.unsent_oldest_s)
    pending = _waiting(stream.clickhouse_pending, "rows pending", stream.clickhouse_oldest_s)
    yield "clickhouse", f"{pending}; {stream.dirty_days} days to rebuild"


def _waiting(number: int, what: str, oldest_s: float) -> str:
    shown = "more than 100000" if number > 100_000 else str(number)
    return f"{shown} {what}" + (f", the oldest for {_age(oldest_s)}" if number else "")


def _queues(queues: list[QueueState]) -> str:
    """Those that hold anything."""
    return ", ".join(_queue(q) for q in queues if q.ready or q.waiting or q.parked) or "empty"


def _queue(queue: QueueState) -> str:
    aside = ((queue.waiting, "waiting"), (queue.parked, "parked"))
    more = [f"{messages} {what}" for messages, what in aside if messages]
    return f"{queue.name} {queue.ready}" + (f" (+ {', '.join(more)})" if more else "")


def _zeus(zeus: Proxy) -> str:
    keys = f"{len(zeus.quarantined)} of {zeus.keys} keys quarantined"
    if zeus.quarantined:
        keys += f" (number {', '.join(zeus.quarantined)})"
    return f"{len(zeus.paused)} of {zeus.addresses} addresses paused | {keys}"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _age(seconds: float) -> str:
    """Seconds below two minutes, else hours and minutes as people read them."""
    return f"{seconds:.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))
