"""What a figure was measured on, and how it is printed: every benchmark ends in `report`."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

Figures = dict[str, float]


def machine() -> str:
    """Cores, processor, memory and interpreter in one line."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {memory:.0f} GiB, Python {platform.python_version()}"


def report(run: Callable[[], Mapping[str, float]]) -> None:
    """Runs one benchmark and prints its figures, with `--json` as one object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    figures = run()
    if as_json:
        print(json.dumps(figures))
        return
    print(machine())
    for name, value in figures.items():
        print(f"{name:32} {value:12.3f}")
