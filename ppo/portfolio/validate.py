"""Greedy play of a portfolio's policy on disjoint slices of the validation part."""

from __future__ import annotations

import numpy as np

from configs.schema import Config
from ppo.evaluate import Agent, Spans
from ppo.learner.validate import WEIGHT_STEP, Validation, performance, scores_of, slice_spans
from ppo.portfolio import rules
from ppo.portfolio.align import PortfolioTape
from ppo.portfolio.play import Lane, rollouts


class PortfolioValidator:
    """Plays policies on fixed slices; each starts and ends flat."""

    def __init__(self, tape: PortfolioTape, spans: Spans, config: Config) -> None:
        """Cut `spans` in `multi_asset.eval_slices` slices; raises as `slice_spans`."""
        pieces = slice_spans(spans, config.multi_asset.eval_slices)
        self._slice = np.array([number for number, _ in pieces])
        self._bars_per_year = config.market.bars_per_year
        terms = rules.terms_of(config.env, config.costs, self._bars_per_year, config.multi_asset)
        self._tape, self._lanes = tape, [Lane([piece], terms) for _, piece in pieces]

    def __call__(self, agent: Agent) -> Validation:
        """Let `agent` play every slice once."""
        tracks = rollouts(self._tape, self._lanes, agent)
        log_returns = [np.log(track.equity[-1] / track.equity[0]) for track in tracks]
        bars = [len(track.returns) for track in tracks]
        per_bar = scores_of(self._slice, log_returns, bars)
        weights = np.concatenate([np.round(track.weight[1:] / WEIGHT_STEP) for track in tracks])
        counts = np.unique(weights, axis=0, return_counts=True)[1]
        trips = np.concatenate([track.trips() for track in tracks])
        hit_rate = float(np.mean(trips > 0)) if len(trips) else None
        returns = np.concatenate([track.returns for track in tracks])
        return Validation(
            score=float(per_bar.mean()),
            slice_scores=tuple(per_bar.tolist()),
            position_changes=int(sum(track.ordered.any(axis=1).sum() for track in tracks)),
            commonest_weight_frac=float(counts.max() / counts.sum()),
            performance=performance(returns, hit_rate, self._bars_per_year),
        )
