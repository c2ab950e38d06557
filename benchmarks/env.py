"""The game's speed in env-steps/s beside its peers and its physical limit, in one run on one core.

22 observations and 9 actions; uniformly random actions over a 20,000-bar random walk. Peers play the same
prices with their own observations and actions: gym-anytrading 2 actions and a window of 10 bars,
Gym-Trading-Env 3 positions. Gym-Trading-Env fails on numpy 2 without help in some releases; its line
then says so. Run: `OMP_NUM_THREADS=1 python -m benchmarks.env [--seconds S]`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from stable_baselines3.common.vec_env import DummyVecEnv

from configs.schema import CostsConfig, EnvConfig
from ppo.env import TradingEnv
from ppo.tape import Tape
from ppo.vec_env import TradingVecEnv

BARS, COLUMNS, REPEATS = 20_000, 18, 3
SPANS = [(0, BARS)]
COSTS = CostsConfig(fee_frac=0.0025, slippage_frac=0.0005, borrow_frac_per_year=0.1)
TARGET_PER_S = 3e6
SIZES = (16, 256, 1024, 4096)


def main() -> int:
    """Measure and print every line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement; the best of three counts")
    seconds = parser.parse_args().seconds
    tape = random_walk()
    print(f"env-steps/s, one core, best of {REPEATS} x {seconds} s")
    for num_envs in SIZES:
        batched(tape, num_envs, seconds)
    single = rate(single_step(TradingEnv(tape, SPANS, EnvConfig(), COSTS, 8_760.0)), 1, seconds)
    print(f"single TradingEnv                        {single:14,.0f}")
    peer("gym-anytrading forex-v0", anytrading_step, tape, 1, single, seconds)
    peer("Gym-Trading-Env", trading_env_step, tape, 1, single, seconds)
    vec = rate(sb3_step(make_vec(tape, 16)), 16, seconds)
    peer("Gym-Trading-Env in DummyVecEnv x 16", trading_env_vec_step, tape, 16, vec, seconds)
    return 0


def batched(tape: Tape, num_envs: int, seconds: float) -> None:
    """Through SB3, the raw kernel, and the share of memory bandwidth that the kernel's bytes need."""
    vec = make_vec(tape, num_envs)
    through_sb3, raw = rate(sb3_step(vec), num_envs, seconds), rate(raw_step(vec), num_envs, seconds)
    target = f"  (target {TARGET_PER_S:,.0f})" if num_envs == 1024 else ""
    print(f"TradingVecEnv x {num_envs:<5} SB3 interface      {through_sb3:14,.0f}{target}")
    moved, bandwidth = bytes_per_step(vec), copy_bandwidth()
    print(
        f"                      raw kernel         {raw:14,.0f}  "
        f"{moved} bytes per step = {raw * moved / 1e9:.1f} of {bandwidth / 1e9:.1f} GB/s copied by this core"
    )


def rate(step: Callable[[int], None], steps_per_call: int, seconds: float) -> float:
    """Best env-steps/s; `step` gets the number of the call."""
    step(0)
    best = 0.0
    for _ in range(REPEATS):
        calls, began = 0, time.perf_counter()
        while (wall_s := time.perf_counter() - began) < seconds:
            for _ in range(50):
                step(calls)
                calls += 1
        best = max(best, calls * steps_per_call / wall_s)
    return best


def random_walk() -> Tape:
    """BARS hourly bars around 100 with COLUMNS of noise."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.005, BARS)))
    open_ = np.r_[100.0, close[:-1]]
    return Tape(
        t=1_600_000_000 // 3_600 * 3_600 + 3_600 * np.arange(BARS, dtype=np.int64),
        open=open_,
        high=np.maximum(open_, close) * 1.001,
        low=np.minimum(open_, close) * 0.999,
        close=close,
        segment=np.zeros(BARS, np.int32),
        timeframe_s=3_600,
        observation=rng.normal(0, 1, (BARS, COLUMNS)).astype(np.float32),
        ready=np.ones(BARS, bool),
    )


def frame_of(tape: Tape) -> pd.DataFrame:
    """The same bars as peers want them."""
    frame = pd.DataFrame({"Open": tape.open, "High": tape.high, "Low": tape.low, "Close": tape.close, "Volume": 1.0})
    frame.index = pd.to_datetime(tape.t, unit="s")
    return frame


def make_vec(tape: Tape, num_envs: int) -> TradingVecEnv:
    """Environments after their first reset."""
    vec = TradingVecEnv(tape, SPANS, EnvConfig(), COSTS, 8_760.0, num_envs)
    vec.reset()
    return vec


def sb3_step(vec: TradingVecEnv) -> Callable[[int], None]:
    """`VecEnv.step` with prepared random actions."""
    actions = np.random.default_rng(1).integers(0, 9, (64, vec.num_envs))
    return lambda call: vec.step(actions[call % 64]) and None


def raw_step(vec: TradingVecEnv) -> Callable[[int], None]:
    """The arrays that our learner takes, no copies."""
    actions = np.random.default_rng(1).integers(0, 9, (64, vec.num_envs))
    return lambda call: vec.step_arrays(actions[call % 64]) and None


def single_step(env, actions: int = 9) -> Callable[[int], None]:
    """Gymnasium's `step`, with a reset where the episode ended."""
    env.reset(seed=0)
    chosen = np.random.default_rng(1).integers(0, actions, 4096).tolist()

    def step(call: int) -> None:
        _, _, terminated, truncated, _ = env.step(chosen[call % 4096])
        if terminated or truncated:
            env.reset()

    return step


def anytrading_step(tape: Tape) -> Callable[[int], None]:
    """gym-anytrading's forex environment."""
    from gym_anytrading.envs import ForexEnv

    return single_step(ForexEnv(frame_of(tape), window_size=10, frame_bound=(10, BARS)), actions=2)


def make_trading_env(tape: Tape):
    """One Gym-Trading-Env with four feature columns, fees and borrow."""
    from gym_trading_env.environments import TradingEnv as Peer

    frame = frame_of(tape).rename(columns=str.lower)
    for name in ("open", "high", "low", "close"):
        frame[f"feature_{name}"] = frame[name].pct_change().fillna(0.0)
    return Peer(frame, positions=[-1, 0, 1], trading_fees=0.0025, borrow_interest_rate=1e-5, verbose=0)


def trading_env_step(tape: Tape) -> Callable[[int], None]:
    """Gym-Trading-Env alone."""
    return single_step(make_trading_env(tape), actions=3)


def trading_env_vec_step(tape: Tape) -> Callable[[int], None]:
    """Gym-Trading-Env, 16 of them in SB3's DummyVecEnv."""
    vec = DummyVecEnv([lambda: make_trading_env(tape)] * 16)
    vec.reset()
    actions = np.random.default_rng(1).integers(0, 3, (64, 16))
    return lambda call: vec.step(actions[call % 64]) and None


def peer(
    name: str, make: Callable[[Tape], Callable[[int], None]], tape: Tape, envs: int, ours: float, seconds: float
) -> None:
    """Print a peer's rate and how many times that ours is, or why it does not run here."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            measured = rate(make(tape), envs, seconds)
    except Exception as error:  # noqa: BLE001 -- whatever ails a peer's release is what its line reports
        print(f"{name:<40} does not run here: {type(error).__name__}: {error}")
        return
    print(f"{name:<40} {measured:14,.0f}  ours is {ours / measured:,.1f} x")


def bytes_per_step(vec: TradingVecEnv) -> int:
    """Bytes that one environment's step must read and write, whatever the code."""
    arrays = vec._arrays
    written = [
        vec._account, vec._clock, arrays.obs, arrays.mask, arrays.reward, arrays.log_return, arrays.shaping,
        arrays.terminated, arrays.truncated,
    ]  # fmt: skip
    read = [vec._account, vec._clock, arrays.mask, vec._actions]
    rows = vec._bars.itemsize * vec._bars.shape[1] + vec._market.itemsize * vec._market.shape[1]
    return sum(x.nbytes for x in written + read) // vec.num_envs + rows


def copy_bandwidth() -> float:
    """Bytes read and written per second by copying 256 MB."""
    source = np.ones(32_000_000)
    target = np.empty_like(source)
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(times)


if __name__ == "__main__":
    raise SystemExit(main())
