"""One way to show rows of text as an HTML table in a notebook; every result of this room uses it.

It knows nothing of what the cells mean; everything is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import zip_longest


def html_table(caption: str, rows: Iterable[Sequence[str]], head: Sequence[str] = (), notes: Iterable[str] = ()) -> str:
    """Return a captioned table whose first column heads its row, and below it a paragraph of notes.

    Each cell knows its column's heading, so that a style sheet can stack a wide table on a phone (class "stacks");
    the roles keep it a table for a screen reader.

    Args:
        caption: what the table shows.
        rows: cells of each row; the first one is the row's heading.
        head: headings of the columns; none are shown when it is empty.
        notes: sentences without their full stop.
    """
    columns = "".join(f'<th role="columnheader" scope="col">{html.escape(title)}</th>' for title in head)
    body = "".join(
        f'<tr role="row"><th role="rowheader" scope="row">{html.escape(row[0])}</th>'
        + "".join(
            f'<td role="cell" data-label="{html.escape(title)}">{html.escape(cell)}</td>'
            for title, cell in zip_longest(head[1:], row[1:], fillvalue="")
        )
        + "</tr>"
        for row in rows
    )
    sentences = " ".join(html.escape(note[:1].upper() + note[1:]) + "." for note in notes)
    wide = " stacks" if len(head) > 3 else ""
    return (
        f'<table role="table" class="table{wide}"><caption>{html.escape(caption)}</caption>'
        + (f'<thead role="rowgroup"><tr role="row">{columns}</tr></thead>' if columns else "")
        + f'<tbody role="rowgroup">{body}</tbody></table>'
        + (f'<p class="table-notes">{sentences}</p>' if sentences else "")
    )
