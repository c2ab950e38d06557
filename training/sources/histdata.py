"""One-minute bars of FX pairs and metals from histdata.com: one zip per past year, one per month of this year.

The site has no API: the page of a file holds a form with a token, which the download must send back
with the page as referer. Volumes are always 0 there.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import httpx

from configs.assets import DatasetName
from training.sources.columns import find_roles
from training.sources.files import read_bytes
from training.sources.rules import read_values
from training.sources.service import Piece, PieceRows, Unreachable
from training.sources.stamps import HISTDATA_ZONE, parse_stamps
from training.sources.table import refuse

BASE_URL = "https://www.histdata.com"
PAGE = "/download-free-forex-historical-data/?/ascii/1-minute-bar-quotes"
TIMEOUT_S = 30.0
SITE_NAMES = {"BRENT": "BCO"}
"""Bases that the site names otherwise."""
FORM_FIELDS = ("tk", "date", "datemonth", "platform", "timeframe", "fxpair")


class HistData:
    """One pair on histdata.com."""

    timeframe_s = 60

    def __init__(self, name: DatasetName, base_url: str = "", this_year: int = 0) -> None:
        """`base_url` replaces the site's; `this_year` the calendar's, which decides between years and months."""
        self.pair = f"{SITE_NAMES.get(name.base, name.base)}{name.quote}"
        self.label = f"histdata.com {self.pair}"
        self._base = name.base
        self._base_url = base_url or BASE_URL
        self._this_year = this_year or time.gmtime().tm_year

    def pieces(self, start_s: int, stop_s: int) -> list[Piece]:
        """The years, and months of this year, that the range touches; the site's clock is New York's."""
        zone = ZoneInfo(HISTDATA_ZONE)
        first, last = (datetime.fromtimestamp(t, UTC).astimezone(zone) for t in (start_s, stop_s - 1))
        spans: list[tuple[str, datetime, datetime]] = []
        for year in range(first.year, last.year + 1):
            if year < self._this_year:
                spans.append((str(year), datetime(year, 1, 1), datetime(year + 1, 1, 1)))
                continue
            for month in range(1, 13):
                following = datetime(year + month // 12, month % 12 + 1, 1)
                spans.append((f"{year}-{month:02}", datetime(year, month, 1), following))
        pieces = [Piece(key, *(int(day.replace(tzinfo=zone).timestamp()) for day in days)) for key, *days in spans]
        return [piece for piece in pieces if piece.start_s < stop_s and start_s < piece.stop_s]

    def download(self, piece: Piece) -> PieceRows:
        """The zip of a year or month; none where the site has no such file."""
        year, _, month = piece.key.partition("-")
        path = "/".join([PAGE, self.pair.lower(), year, *([str(int(month))] if month else [])])
        url = f"{self._base_url}{path}"
        try:
            with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as client:
                page = client.get(url)
                if page.status_code == httpx.codes.NOT_FOUND:
                    return PieceRows.none()
                form = form_fields(page.raise_for_status().text)
                if not form.get("tk"):
                    return PieceRows.none()
                answer = client.post(f"{self._base_url}/get.php", data=form, headers={"Referer": url})
                data = answer.raise_for_status().content
        except httpx.HTTPError as error:
            raise Unreachable(f"histdata.com is unreachable: {type(error).__name__} {error}".strip()) from error
        return self._parsed(data, f"{self.label} {piece.key}")

    def _parsed(self, data: bytes, where: str) -> PieceRows:
        """Rows as they stand in the zip; the market rules judge them when all pieces are there."""
        table = read_bytes(data, "histdata.zip", where)
        roles = find_roles(table.columns, self._base, where)
        stamps = parse_stamps(table, roles, "auto", where)
        faults = [*table.faults, *stamps.faults]
        if faults:
            raise refuse(where, faults)
        return PieceRows(stamps.t, read_values(table, roles.values)[0])


def form_fields(page: str) -> dict[str, str]:
    """The download form's hidden fields; empty where the page offers no file."""
    parser = _Inputs()
    parser.feed(page)
    return {field: parser.values[field] for field in FORM_FIELDS if field in parser.values}


class _Inputs(HTMLParser):
    """Collects `<input name|id=... value=...>`."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        key = attributes.get("name") or attributes.get("id")
        if tag == "input" and key and re.fullmatch(r"\w+", key):
            self.values[key] = attributes.get("value") or ""
