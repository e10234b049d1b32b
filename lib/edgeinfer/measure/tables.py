"""One way to show rows of text as an HTML table in a notebook; every result of this room uses it.

It knows nothing of what the cells mean; everything is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def html_table(caption: str, rows: Iterable[Sequence[str]], head: Sequence[str] = (), notes: Iterable[str] = ()) -> str:
    """Return a captioned table whose first column heads its row, and below it a paragraph for each note.

    Args:
        caption: what the table shows.
        rows: cells of each row; the first one is the row's heading.
        head: headings of the columns; none are shown when it is empty.
        notes: sentences without their full stop.
    """
    columns = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<table class="table"><caption>{html.escape(caption)}</caption>'
        + (f"<thead><tr>{columns}</tr></thead>" if columns else "")
        + f"<tbody>{body}</tbody></table>"
        + "".join(f"<p>{html.escape(note)}.</p>" for note in notes)
    )
