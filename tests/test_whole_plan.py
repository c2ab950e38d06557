"""The whole plan on prices that are known: it finds what is there, and finds nothing where nothing is.

All of quick's settings on two years of bars: minutes for each test (`make whole`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from configs.calendar import month_start
from tests.cli import run_json
from tests.planted_prices import DRIFT, FIRST_T, HOUR_S, write_coin

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("WHOLE") != "all", reason="takes long; WHOLE=all (make whole) runs it"),
]

COSTS = ("costs.fee_frac=0.0004", "costs.slippage_frac=0.0001")
MONTHS = 24


def whole_plan(directory: Path, drift: float) -> tuple[dict, Path]:
    hours = (month_start(f"{2023 + MONTHS // 12}-{MONTHS % 12 + 1:02d}") - FIRST_T) // HOUR_S
    for seed, symbol in enumerate(("BTC-USDT", "ETH-USDT")):
        write_coin(directory / "data", symbol, hours, seed, drift)
    chosen = [part for each in COSTS for part in ("--set", each)]
    where = ("--data-dir", directory / "data", "--runs-dir", directory / "runs")
    result = run_json("--dataset", "BTC-USDT_1H", "--assets", "BTC-USDT,ETH-USDT", *where, *chosen)
    return result, Path(result["run_dir"])


def test_trends_in_two_coins_end_with_an_edge_and_the_portfolio_uses_both(tmp_path):
    result, run_dir = whole_plan(tmp_path, DRIFT)
    print({name: (family["verdict"], family["mean"]["sharpe"]) for name, family in result["families"].items()})
    assert result["verdict"] == "edge"
    assert result["families"]["walk_forward"]["verdict"] == "edge"
    portfolio = json.loads((run_dir / "stages/evaluate/multi_asset/evaluation.json").read_text())
    assert portfolio["verdict"] == "edge"
    assets = portfolio["mean"]["assets"].values()
    assert len(assets) == 2 and min(asset["mean_abs_weight"] for asset in assets) > 0.2
    assert min(asset["return_contribution"] for asset in assets) > 0


def test_driftless_coins_end_without_evidence_of_an_edge(tmp_path):
    result, _ = whole_plan(tmp_path, 0.0)
    print({name: (family["verdict"], family["mean"]["sharpe"]) for name, family in result["families"].items()})
    assert result["verdict"] == "no evidence of an edge"
    assert all(family["verdict"] != "edge" for family in result["families"].values())
