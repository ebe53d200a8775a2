"""Numbers and tables as text, as all reports here write them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest


def ms(seconds: float) -> str:
    """Milliseconds in three digits."""
    return number(1e3 * seconds)


def number(value: float) -> str:
    """Three digits, the last ones not there if they say nothing."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 0.0005 else "0"


def percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"


def align(rows: list[list[str]], words: Sequence[bool] = (True,)) -> str:
    """Rows as columns: those of words, which are the first unless told, to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip_longest(row, widths, words, fillvalue=False)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
