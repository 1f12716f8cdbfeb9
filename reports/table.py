"""A table in plain text, and its Markdown.

Cells, captions and footnotes are plain text; `Table.to_markdown` alone escapes them. Scores are
in per cent, times in milliseconds where nothing else is said; a dash stands for "not there".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.records import StudyReport
from reports.findings import labels_of
from reports.scores import NOTHING

LIST_LIMIT = 20  # rows of a list that could be as long as the data set
READABLE_COLUMNS = 7


_COMMAND = re.compile(r"(`(?:bench |--)[^`|]*`)")


def escape(text: str) -> str:
    """Make text safe in a Markdown paragraph or table cell: one line, no markup of its own.

    Commands of `bench` and its options stay code; other backticks belong to what users named.
    """
    pieces = _COMMAND.split(" ".join(text.split()))
    line = "".join(
        piece if _COMMAND.fullmatch(piece) else _without_markup(piece) for piece in pieces
    )
    # A list marker or heading at the start of a line; a number alone is no list.
    line = re.sub(r"^([-+#])(?=\s|#)", r"\\\1", line)
    return re.sub(r"^(\d+)([.)])(?=\s)", r"\1\\\2", line)


def _without_markup(text: str) -> str:
    text = re.sub(r"([\\`*|<>~$])", r"\\\1", text)
    # Brackets make a link only before one of these; those of intervals need no escape.
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return re.sub(r"&(?=#?[A-Za-z0-9]+;)", r"\\&", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table in plain text; `rows` are as wide as `headers`."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footnotes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """Caption, pipe table and footnotes; columns of numbers are aligned to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.headers)
        rule = ["---:" if _is_numeric(column) else "---" for column in columns]
        lines = [f"**{escape(self.caption)}**", ""]
        lines.append(_line(escape(header) for header in self.headers))
        lines.append(_line(rule))
        lines += [_line(escape(cell) for cell in row) for row in self.rows]
        for footnote in self.footnotes:
            lines += ["", escape(footnote)]
        return "\n".join(lines)


def without_repeats(table: Table) -> Table:
    """Tell what is the same in all rows once, below a table that would be too wide to read.

    The first column names the rows, and stays.
    """
    columns = tuple(zip(*table.rows, strict=True))
    if len(table.headers) <= READABLE_COLUMNS or len(table.rows) < 2:
        return table
    kept = [k for k, column in enumerate(columns) if k == 0 or len(set(column)) > 1]
    same = [
        f"{header} = {column[0]}"
        for k, (header, column) in enumerate(zip(table.headers, columns, strict=True))
        if k not in kept and column[0] != NOTHING
    ]
    return replace(
        table,
        headers=tuple(table.headers[k] for k in kept),
        rows=tuple(tuple(row[k] for k in kept) for row in table.rows),
        footnotes=(*((f"In all rows: {'; '.join(same)}.",) if same else ()), *table.footnotes),
    )


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _is_numeric(column: Sequence[str]) -> bool:
    return bool(column) and all(cell == NOTHING or re.match(r"[-+]?\d", cell) for cell in column)


def caption_of(report: StudyReport, text: str) -> str:
    """The caption with the study's warnings; its notes stand once, at the section's top."""
    labels = labels_of(report)
    return f"{text} ({'; '.join(labels)})" if labels else text


def ms(value: float | None) -> str:
    """Milliseconds with as many digits as a reader can use."""
    if value is None:
        return NOTHING
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def and_more(total: int) -> tuple[str, ...]:
    return (f"… and {total - LIST_LIMIT} more.",) if total > LIST_LIMIT else ()


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
