"""HTML built from values: whatever is not `Html` already is escaped, so no value can become markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

VOID = frozenset({"meta", "br", "hr", "input"})


class Html(str):
    """Text that is markup already."""


def escape(value: object) -> Html:
    """The value's text, escaped; `Html` as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def join(parts: Iterable[object]) -> Html:
    """Parts one after the other, each escaped."""
    return Html("".join(escape(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """One element; `class_` is `class`, `data_x` is `data-x`; an attribute that is True stands without a value."""
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def json_script(element_id: str, value: Any) -> Html:
    """Data for the page's script; `<` is written so that no text can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{escape(element_id)}">{text}</script>')


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, label: str, align: str = "lr") -> Html:
    """A table that scrolls in its own box where it is wider than the page.

    The first column is the row's heading. `align` has l or r per column, the last for all that follow; r is for
    numbers, in tabular figures.
    """

    def kind(column: int) -> str | None:
        return "num" if align[min(column, len(align) - 1)] == "r" else None

    top = tag("tr", *(tag("th", cell, scope="col", class_=kind(column)) for column, cell in enumerate(head)))
    body = [
        tag(
            "tr",
            *(
                tag("td" if column else "th", cell, class_=kind(column), scope=None if column else "row")
                for column, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    whole = tag("table", tag("thead", top), tag("tbody", *body))
    return tag("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def facts_list(pairs: Iterable[tuple[object, object]]) -> Html:
    """Name and value pairs."""
    rows = (tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs)
    return tag("dl", *rows, class_="facts")


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
