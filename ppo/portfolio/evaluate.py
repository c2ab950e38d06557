"""Score a run's portfolio agents on the test part, with the judge and the baselines' standards of all families.

`evaluation.json` has the keys of the single-asset families (see `ppo.stages.evaluate`; METRICS as in
`ppo.portfolio.metrics`; baselines are flat, buy_and_hold, moving_average and rebalanced_monthly (equal
weights), buy_and_hold_<symbol> of each and random) and:

    portfolio  {"assets": [symbol], "gross_limit", "asset_cap", "allow_short", "rebalance_threshold",
               "correlation": [[...]] of the assets' returns, null where there are too few,
               "listing": `assets` of `multi_asset/data`'s assets.json}

`equity.parquet` has a row per scored row of the union clock: t, span, `close_<symbol>`, then per seed i
`equity_seed_<i>` and `weight_seed_<i>_<symbol>` (at the close), then `equity_mean` and `equity_<baseline>`.
`trades-seed-<i>.csv` has every fill of all legs, as `ppo.portfolio.ledger` defines it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.files import read_json
from configs.schema import Config
from configs.unit import Unit
from ppo.evaluate import Agent, Spans
from ppo.judge import Scored, cost_levels, judgement
from ppo.learner.policy import read_policy
from ppo.ledger import write_trades
from ppo.metrics import mean_track
from ppo.portfolio import rules
from ppo.portfolio.align import PortfolioTape
from ppo.portfolio.baselines import rule_tracks, shifted
from ppo.portfolio.data import UNIT, load_portfolio
from ppo.portfolio.ledger import portfolio_trades
from ppo.portfolio.metrics import contributions, correlations, portfolio_metrics
from ppo.portfolio.play import Lane, PortfolioTrack, rollouts
from ppo.portfolio.rules import CLOSE
from ppo.scoring import SCHEMA, dataset_facts, market_range, range_facts
from ppo.statistics import moments
from ppo.trials import Trial
from training.stages.prepare import Prepared, write_table
from training.streams import stream


@dataclass(frozen=True)
class PlayedPortfolio:
    """Portfolio agents, played on the test part and not judged yet: a `Played` of `ppo.scoring`."""

    tape: PortfolioTape
    config: Config
    scored: Scored[PortfolioTrack]
    bounds: tuple[int, int]
    """Half-open rows of the clock that were to be scored."""
    dataset: dict[str, Any]
    """Facts of the run's own dataset."""
    listing: list[dict[str, Any]]
    """Facts of all assets."""
    cache_key: str

    @property
    def returns(self) -> np.ndarray:
        """(T,) mean over the seeds of the return of each row."""
        return mean_track(self.scored.agents)[0]

    @property
    def trials(self) -> list[Trial]:
        """The mean of the seeds, entered for the test bars of every asset."""
        sharpe, used = moments(self.returns).sharpe, [(asset, *asset["test"]) for asset in self.listing]
        scored = partial(market_range, dataset=self.dataset, t=self.tape.t, bounds=self.bounds)
        return [
            Trial(asset["digest"], start, stop, self.cache_key, sharpe, **scored(asset["symbol"]))
            for asset, start, stop in used
            if start < stop
        ]

    def judge(self, trial_sharpes: dict[str, float]) -> dict[str, Any]:
        """`evaluation.json`."""
        metrics_of = partial(portfolio_metrics, assets=self.tape.assets)
        scored = range_facts(self.tape.t, self.scored.agents[0], self.bounds, self.config.market.bars_per_year)
        facts = {"schema": SCHEMA, "dataset": self.dataset, "test_range": scored, "portfolio": self._portfolio()}
        judged = judgement(self.scored, self.config, list(trial_sharpes.values()), metrics_of)
        for symbol, added in contributions(self.scored.agents, self.config, self.tape.assets).items():
            judged["mean"]["assets"][symbol] |= added  # not the seeds' means: these would not add up
        return facts | judged

    def write(self, directory: Path) -> None:
        """Write `equity.parquet` and the seeds' trades."""
        write_table(directory / "equity.parquet", equity_table(self.tape, self.scored))
        for seed, track in enumerate(self.scored.agents):
            write_trades(directory / f"trades-seed-{seed}.csv", portfolio_trades(self.tape, track))

    def _portfolio(self) -> dict[str, Any]:
        limits = self.config.multi_asset
        names = ("gross_limit", "asset_cap", "allow_short", "rebalance_threshold")
        return {
            "assets": list(self.tape.assets),
            **{name: getattr(limits, name) for name in names},
            "correlation": correlations(self.tape, self.scored.agents[0].row),
            "listing": self.listing,
        }


def score_portfolio(unit: Unit, prepared: Prepared, agents: Sequence[str], cache_key: str) -> PlayedPortfolio:
    """Play portfolio agents on the test part; the unit hears of each that was played.

    Args:
        unit: that scores them.
        prepared: the run's own dataset.
        agents: units that trained them, in the order of their seeds.
        cache_key: key of what is scored.

    Raises:
        BadDataError: a file is missing, or there is nothing to play on.
    """
    run, config = unit.run, unit.config
    portfolio, policies = load_portfolio(run, config), [read_policy(run.unit_dir(agent)) for agent in agents]
    return PlayedPortfolio(
        tape=portfolio.tape,
        config=config,
        scored=score(portfolio.tape, config, portfolio.spans("test"), policies, unit.progress),
        bounds=portfolio.parts["test"],
        dataset=dataset_facts(prepared.dataset),
        listing=read_json(run.require_output(UNIT, "assets.json"))["assets"],
        cache_key=cache_key,
    )


def score(
    tape: PortfolioTape,
    config: Config,
    spans: Spans,
    agents: Sequence[Agent],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Scored[PortfolioTrack]:
    """Play agents, baselines and cost levels on the spans, each agent's cost levels side by side."""
    levels = cost_levels(config)
    lanes = [Lane(spans, _terms(level)) for level in (config, *(level for _, level in levels))]
    played = []
    for number, agent in enumerate(agents):
        played.append(rollouts(tape, lanes, agent))
        report(number + 1, len(agents))
    tracks = [own[0] for own in played]
    rng = stream(config.seed, "judge", "shifts")
    shifts = rng.integers(1, max(2, len(tracks[0].returns)), config.judging.random_shifts)
    return Scored(
        agents=tracks,
        baselines=rule_tracks(tape, config, spans),
        shifts=shifted(tape, config, spans, tracks, shifts),
        sweep=[
            (bps, [own[number] for own in played], rule_tracks(tape, level, spans))
            for number, (bps, level) in enumerate(levels, start=1)
        ],
    )


def equity_table(tape: PortfolioTape, scored: Scored[PortfolioTrack]) -> pd.DataFrame:
    """One row per scored row, as described above."""
    track = scored.agents[0]
    columns: dict[str, np.ndarray] = {"t": tape.t[track.row], "span": (np.cumsum(track.first) - 1).astype(np.int32)}
    columns |= {f"close_{symbol}": tape.prices[track.row, k, CLOSE] for k, symbol in enumerate(tape.assets)}
    for seed, agent in enumerate(scored.agents):
        columns[f"equity_seed_{seed}"] = agent.equity
        columns |= {f"weight_seed_{seed}_{symbol}": agent.weight[:, k] for k, symbol in enumerate(tape.assets)}
    columns["equity_mean"] = mean_track(scored.agents)[1]
    columns |= {f"equity_{name}": baseline.equity for name, baseline in scored.baselines.items()}
    return pd.DataFrame(columns)


def _terms(config: Config) -> np.ndarray:
    return rules.terms_of(config.env, config.costs, config.market.bars_per_year, config.multi_asset)
