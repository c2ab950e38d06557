"""The portfolio game's speed in env-steps/s beside a plain numpy implementation of the same step, on one core.

1,024 environments, K = 1, 3 and 8 assets of 18 columns each over 20,000 bars, normal raw actions. The peer is
what one would write with arrays over (environments, assets): same targets, threshold, costs by the same Newton steps,
borrow, liquidation test, mark, reward and observation; it starts no episode anew and cannot liquidate, so it does a
little less. Both play the same actions first, and their equities must agree. FinRL's portfolio environments step one
account in pandas and are not in this run. Run: `OMP_NUM_THREADS=1 python -m benchmarks.portfolio [--seconds S]`.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.env import copy_bandwidth, rate
from configs.load import resolve
from configs.schema import Config
from ppo.portfolio import rules
from ppo.portfolio.align import PortfolioTape
from ppo.portfolio.env import PortfolioEnvs

ENVS, BARS, COLUMNS, CHECKED_STEPS = 1_024, 20_000, 18, 50
ASSETS = (1, 3, 8)
EPISODE_BARS = 2_000


def main() -> int:
    """Measure and print every line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement; the best of three counts")
    seconds = parser.parse_args().seconds
    bandwidth = copy_bandwidth()
    print(f"env-steps/s, {ENVS} environments, one core, best of three x {seconds} s")
    for assets in ASSETS:
        tape, config = random_walks(assets), resolve("BTC-USDT_1H", "quick").config
        envs = PortfolioEnvs(tape, [(0, BARS)], config, ENVS, seed=0, episode_bars=EPISODE_BARS)
        peer = NumpyPortfolio(tape, config)
        actions = np.random.default_rng(1).normal(size=(64, ENVS, assets)).astype(np.float32)
        require_equal(envs, peer, actions)
        envs.reset_arrays()
        peer.row = np.random.default_rng(2).integers(0, BARS - 1, ENVS)
        ours = rate(
            lambda call, envs=envs, actions=actions: envs.step_arrays(actions[call % 64]) and None, ENVS, seconds
        )
        plain = rate(lambda call, peer=peer, actions=actions: peer.step(actions[call % 64]), ENVS, seconds)
        moved = bytes_per_step(envs)
        print(
            f"K = {assets}   PortfolioEnvs {ours:12,.0f}   {moved:5} bytes per step = {ours * moved / 1e9:.1f} of "
            f"{bandwidth / 1e9:.1f} GB/s   numpy {plain:12,.0f}   ours is {ours / plain:.1f} x"
        )
    return 0


def random_walks(assets: int) -> PortfolioTape:
    """BARS hourly bars of each asset around 100 with COLUMNS of noise."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.005, (BARS, assets)), axis=0))
    opens = np.concatenate([np.full((1, assets), 100.0), close[:-1]])
    high, low = np.maximum(opens, close) * 1.001, np.minimum(opens, close) * 0.999
    return PortfolioTape(
        assets=tuple(f"A{k}-USDT" for k in range(assets)),
        t=1_600_000_000 // 3_600 * 3_600 + 3_600 * np.arange(BARS, dtype=np.int64),
        prices=np.stack([opens, high, low, close], axis=-1),
        flags=np.full((BARS, assets), rules.PRESENT | rules.READY, np.uint8),
        segment=np.zeros((BARS, assets), np.int32),
        market=rng.normal(0, 1, (BARS, assets * COLUMNS)).astype(np.float32),
        timeframe_s=3_600,
        max_gap_s=6 * 3_600,
    )


class NumpyPortfolio:
    """The same step with arrays; every asset has every bar."""

    def __init__(self, tape: PortfolioTape, config: Config) -> None:
        """Start every environment flat on a row of its own."""
        count, assets = ENVS, len(tape.assets)
        self.tape, self.limits, self.env = tape, config.multi_asset, config.env
        fee, slip = config.costs.fee_frac, config.costs.slippage_frac
        self.buying, self.selling = (1 + slip) * (1 + fee) - 1, (1 - slip) * (1 - fee) - 1
        self.fee, self.slip = fee, slip
        self.borrow = config.costs.borrow_frac_per_year / config.market.bars_per_year
        self.row = np.zeros(count, np.int64)
        self.cash, self.equity = np.full(count, config.env.initial_equity), np.full(count, config.env.initial_equity)
        self.quantity, self.entry = np.zeros((count, assets)), np.ones((count, assets))
        self.held = np.zeros(count)
        self.obs = np.zeros((count, tape.market.shape[1] + 3 * assets + 3), np.float32)

    def step(self, actions: np.ndarray) -> None:
        """Play one row in every environment; at the end of the tape begin again from its first row."""
        self.row = (self.row + 1) % (BARS - 1)
        bar = self.tape.prices[self.row]
        opens, close = bar[..., rules.OPEN], bar[..., rules.CLOSE]
        values = self.quantity * opens
        equity = self.cash + values.sum(axis=1)
        after = self._order(self._targets(actions), values, equity)
        self._fill(after - values, opens)
        shorts = -np.minimum(self.quantity * opens, 0).sum(axis=1)
        self.cash -= self.borrow * (shorts + np.maximum(-self.cash, 0))
        self.margin = self._margin(bar)
        before, self.equity = self.equity, self.cash + (self.quantity * close).sum(axis=1)
        reward = self.env.reward_scale * np.log(self.equity / before)
        self.reward = np.clip(reward, -self.env.reward_clip, self.env.reward_clip).astype(np.float32)
        self._observe(close)

    def _targets(self, actions: np.ndarray) -> np.ndarray:
        targets = self.limits.asset_cap * np.clip(actions.astype(np.float64), -1, 1)
        gross = np.abs(targets).sum(axis=1, keepdims=True)
        return targets * np.minimum(1, self.limits.gross_limit / np.maximum(gross, 1e-300))

    def _order(self, targets: np.ndarray, values: np.ndarray, equity: np.ndarray) -> np.ndarray:
        """Values of the legs after the order."""
        drifted, cap, limit = values / equity[:, None], self.limits.asset_cap, self.limits.gross_limit
        slack = self.limits.rebalance_threshold * min(cap, limit / targets.shape[1])
        wanted = (np.abs(targets - drifted) > slack) | (targets == 0) | (targets * drifted < 0)
        alone = np.where(wanted, 0, np.clip(drifted, -cap, cap))
        room = limit - np.abs(np.where(wanted, targets, 0)).sum(axis=1)
        left = np.abs(alone).sum(axis=1)
        kept = np.where(left > room + 1e-9 * limit, np.maximum(room, 0) / np.maximum(left, 1e-300), 1)
        targets = np.where(wanted, targets, alone * kept[:, None])
        wanted |= targets != drifted
        targets = np.where(wanted & (np.abs(targets) < self.env.min_cash_frac), 0, targets)
        after = equity.copy()
        for _ in range(targets.shape[1] + 2):
            traded = np.where(wanted, targets * after[:, None] - values, 0)
            cost = np.where(traded > 0, self.buying, self.selling)
            excess = after - equity + (cost * traded).sum(axis=1)
            after -= excess / (1 + (cost * targets * wanted).sum(axis=1))
        return np.where(wanted, targets * after[:, None], values)

    def _fill(self, traded: np.ndarray, opens: np.ndarray) -> None:
        closed = traded == -self.quantity * opens
        units = np.where(closed, -self.quantity, traded / opens)
        price = opens * (1 + np.sign(traded) * self.slip)
        after = self.quantity + units
        grown = (self.quantity * self.entry + units * price) / np.where(after == 0, 1, after)
        fresh = (self.quantity == 0) | (self.quantity * after < 0)
        self.entry = np.where(fresh, price, np.where(self.quantity * units > 0, grown, self.entry))
        self.quantity = after
        self.cash -= (units * price + self.fee * np.abs(units) * price).sum(axis=1)

    def _margin(self, bar: np.ndarray) -> np.ndarray:
        worst = np.where(self.quantity < 0, bar[..., rules.HIGH], bar[..., rules.LOW])
        kept = np.where(self.quantity < 0, 1 + self.env.maintenance_frac, 1)
        return self.cash + (kept * self.quantity * worst).sum(axis=1)

    def _observe(self, close: np.ndarray) -> None:
        columns, assets, env = self.tape.market.shape[1], close.shape[1], self.env
        weight, side = self.quantity * close / self.equity[:, None], np.sign(self.quantity)
        self.held = np.where(side.any(axis=1), self.held + 1, 0)
        legs = self.obs[:, columns : columns + 3 * assets].reshape(ENVS, assets, 3)
        self.obs[:, :columns] = self.tape.market[self.row]
        legs[..., 0] = np.clip(weight, -env.weight_clip, env.weight_clip)
        legs[..., 1] = np.clip(side * (close / self.entry - 1), -env.observation_clip, env.observation_clip)
        legs[..., 2] = 1
        self.obs[:, columns : columns + 3 * assets] = legs.reshape(ENVS, -1)
        self.obs[:, -3] = np.clip(self.cash / self.equity, 0, env.cash_clip)
        self.obs[:, -2] = np.minimum(np.abs(weight).sum(axis=1), env.observation_clip)
        self.obs[:, -1] = np.minimum(self.held / env.holding_scale_bars, 1)


def require_equal(envs: PortfolioEnvs, peer: NumpyPortfolio, actions: np.ndarray) -> None:
    """Both play the same rows and actions to the same equity and observations; a difference ends the benchmark."""
    envs.start_arrays(np.zeros(ENVS, np.int64))
    for step in range(CHECKED_STEPS):
        found = envs.step_arrays(actions[step])
        peer.step(actions[step])
    if not np.allclose(envs.equity, peer.equity, rtol=1e-9) or not np.allclose(found.obs, peer.obs, atol=1e-5):
        raise SystemExit("the two implementations differ: nothing is measured")


def bytes_per_step(envs: PortfolioEnvs) -> int:
    """Bytes that one environment's step must read and write, whatever the code."""
    state, arrays = envs.state(), envs.step_arrays(np.zeros((ENVS, envs.assets), np.float32))
    kept = sum(array.nbytes for name, array in state.items() if name in ("account", "legs", "clock"))
    written = (arrays.obs, arrays.mask, arrays.reward, arrays.log_return, arrays.terminated, arrays.truncated)
    rows = envs.assets * (4 * 8 + 1 + COLUMNS * 4)
    return (2 * kept + sum(array.nbytes for array in written)) // ENVS + envs.assets * 4 + rows


if __name__ == "__main__":
    raise SystemExit(main())
