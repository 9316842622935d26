"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Heading, key of the figure and its form.
Column = tuple[str, str, str]


def show(columns: Sequence[Column], rows: Iterable[dict]) -> list[dict]:
    """Print a table, each row as soon as it is measured, and return the rows. `-` stands for figures that are None."""
    print('\n| ' + ' | '.join(heading for heading, _, _ in columns) + ' |\n' + '|---' * len(columns) + '|', flush=True)
    shown = []
    for row in rows:
        cells = [form.format(row[key]) if row.get(key) is not None else '-' for _, key, form in columns]
        print(f'| {" | ".join(cells)} |', flush=True)
        shown.append(row)
    return shown
