"""Figures as plain Plotly JSON; a colour is a name (`@mean`) that the page resolves for light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.report.markup import Html, tag
from runner.report.series import Number, milliseconds, rounded, thin

Trace = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure and the words around it."""

    id: str
    data: list[Trace]
    layout: dict[str, Any]
    height_px: int
    label: str
    """What the figure shows, for readers who do not see it."""
    caption: str = ""

    def html(self) -> Html:
        """The box that the page's script draws into."""
        box = tag(
            "div", id=self.id, class_="plot", style=f"height:{self.height_px}px", role="img", aria_label=self.label
        )
        return tag("figure", box, tag("figcaption", self.caption) if self.caption else "")

    def to_json(self) -> dict[str, Any]:
        """What the page's script draws."""
        return {"id": self.id, "data": self.data, "layout": self.layout}


def time_line(t: Sequence[int], values: Sequence[Number], name: str, colour: str, **style: Any) -> Trace:
    """A line over time (Unix seconds), thinned and rounded."""
    x, y = thin(milliseconds(t), values)
    return line(x, y, name, colour, **style)


def line(x: Sequence[Any], y: Sequence[Number], name: str, colour: str, **style: Any) -> Trace:
    """A line; `width`, `dash` and `shape` style it, everything else goes to the trace."""
    stroke = {key: style.pop(key) for key in ("width", "dash", "shape") if key in style}
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": rounded(y),
        "name": name,
        "line": {"color": colour, "width": 1.5} | stroke,
    } | style


PANEL_GAP_PX = 34
"""Between two panels: room for the lower one's title."""


def stacked(panels: Sequence[tuple[str, float, dict[str, Any]]], height_px: int) -> dict[str, Any]:
    """Layout of panels above each other on one x axis: (title, share of the height, y-axis settings), from the top.

    The panels' axes are y, y2, y3, ...; the titles stand above the panels, where a phone has room for them.
    """
    drawn_px = height_px - 80  # without x labels and legend, roughly: the gaps need not be exact
    gap = PANEL_GAP_PX / drawn_px
    usable = 1 - gap * (len(panels) - 1)
    total = sum(share for _, share, _ in panels)
    layout: dict[str, Any] = {"annotations": [], "legend": {"y": 1 + 20 / drawn_px}, "margin": {"t": 26}}
    top = 1.0
    for number, (title, share, settings) in enumerate(panels, start=1):
        bottom = max(0.0, top - usable * share / total)
        name = "yaxis" if number == 1 else f"yaxis{number}"
        layout[name] = {"domain": [round(bottom, 4), round(top, 4)]} | settings
        place = {"xref": "paper", "yref": "paper", "x": 0, "y": round(top, 4), "xanchor": "left", "yanchor": "bottom"}
        layout["annotations"].append({"text": title, "showarrow": False, "font": {"color": "@ink"}} | place)
        top = bottom - gap
    layout["xaxis"] = {"anchor": f"y{len(panels)}" if len(panels) > 1 else "y"}
    return layout
