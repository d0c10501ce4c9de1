"""Small pictures in an asset's metadata; what they show is decided in the group modules."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import dagster as dg

_ROW, _LABELS, _BARS, _TEXT = 22, 260, 360, 150


class Bar(NamedTuple):
    label: str
    value: float  # not negative
    text: str  # at the end of the bar


def bar_chart(title: str, bars: Sequence[Bar]) -> dg.MarkdownMetadataValue:
    """Horizontal bars, the longest as wide as there is room; an SVG within Markdown."""
    longest = max((bar.value for bar in bars), default=0) or 1
    height = _ROW * (len(bars) + 1) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABELS + _BARS + _TEXT}" '
        f'height="{height}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars, start=1):
        y = number * _ROW + 4
        width = round(_BARS * bar.value / longest, 1)
        parts += [
            f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{_LABELS}" y="{y + 2}" width="{width}" height="{_ROW - 6}" fill="#4f7cac"/>',
            f'<text x="{_LABELS + width + 6}" y="{y + 14}">{escape(bar.text)}</text>',
        ]
    picture = b64encode(("".join(parts) + "</svg>").encode()).decode()
    return dg.MetadataValue.md(f"![{_plain(title)}](data:image/svg+xml;base64,{picture})")


def _plain(title: str) -> str:
    return title.replace("[", "(").replace("]", ")")
