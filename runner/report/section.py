"""A section of the page: a heading, and parts that are markup or figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.report.facts import Facts
from runner.report.figure import Figure
from runner.report.markup import Html, join, tag


@dataclass(frozen=True)
class Gallery:
    """Small figures side by side, as many in a row as there is room for."""

    figures: Sequence[Figure]

    def html(self) -> Html:
        """The boxes that the page's script draws into."""
        return tag("div", *(figure.html() for figure in self.figures), class_="gallery")


@dataclass(frozen=True)
class Section:
    """What one section shows, already worded."""

    parts: Sequence[Html | Figure | Gallery]
    lead: str = ""
    """What the reader sees here, in one or two sentences."""

    @property
    def figures(self) -> list[Figure]:
        """The figures among the parts."""
        found: list[Figure] = []
        for part in self.parts:
            if not isinstance(part, Html):
                found += part.figures if isinstance(part, Gallery) else [part]
        return found

    def html(self, id: str, title: str) -> Html:
        """The section's markup, under its heading."""
        parts = [part if isinstance(part, Html) else part.html() for part in self.parts]
        lead = tag("p", self.lead, class_="lead") if self.lead else ""
        return tag("section", tag("h2", title), lead, join(parts), id=id)


@dataclass(frozen=True)
class Builder:
    """A section and how it is made; `build` may return None when there is nothing of its kind in the run."""

    id: str
    title: str
    build: Callable[[Facts], Section | None]
    waits_for: str
    """The stage whose files it shows, named when they are missing from a run that has it; empty where no stage is."""


def note(text: str) -> Html:
    """A remark below a part."""
    return tag("p", text, class_="note")


def heading(text: str) -> Html:
    """A heading inside a section."""
    return tag("h3", text)


def badge(text: str, tone: str) -> Html:
    """A short word in a colour: `good`, `bad`, `warn` or `quiet`."""
    return tag("span", text, class_=f"badge {tone}")
