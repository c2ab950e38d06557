"""Training speed: our PPO beside sb3-contrib's MaskablePPO and SB3's PPO, same environments, net and settings.

Run with `python -m benchmarks.ppo`. One thread; the three take turns, so that a
busy machine slows them alike; the figure of each is the median of its turns.
The second table is the reference net [1280, 640] with 20 epochs: its achieved
floating-point rate as a share of what one matrix product of its size reaches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from configs.load import resolve
from configs.schema import Config, PPOConfig
from ppo.export import hyperparameters, policy_kwargs
from ppo.learner.train import Job, advance, single_asset_job, start
from ppo.rules import ACTIONS
from tests.ppo.worlds import planted_tape
from training.determinism import set_up_torch

OBSERVATIONS = 22
"""18 market columns and the account's four: the reference observation."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    set_up_torch(arguments.threads)
    quick = resolve("DEMO-USD_1H", "quick").config
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {arguments.turns} turns")
    learners = {
        "ours": ours(job(quick)),
        "MaskablePPO": theirs(quick, MaskablePPO),
        "PPO (no masks)": theirs(quick, PPO),
    }
    rates = take_turns(learners, quick, arguments.turns, rollouts=4)
    print(f"\nquick: {describe(quick)}")
    report(rates)

    reference = resolve("DEMO-USD_1H", "standard").config
    learners = {"ours": ours(job(reference)), "MaskablePPO": theirs(reference, MaskablePPO)}
    rates = take_turns(learners, reference, max(5, arguments.turns // 2), rollouts=2)
    print(f"\nreference: {describe(reference)}")
    report(rates)
    achieved = rates["ours"] * flop_per_step(reference)
    inputs, units = max(pairwise((OBSERVATIONS, *reference.ppo.hidden)), key=lambda pair: pair[0] * pair[1])
    peak = matmul_flop_per_s(reference.ppo.minibatch_size, inputs, units)
    print(f"  {achieved / 1e9:.1f} of {peak / 1e9:.1f} GFLOP/s of its largest matrix product: {achieved / peak:.0%}")


def ours(own: Job) -> Callable[[int], None]:
    """A turn of our learner: so many rollouts with their updates."""
    state = start(own)

    def turn(rollouts: int) -> None:
        for _ in range(rollouts):
            advance(state, own.ppo)

    return turn


def theirs(config: Config, algorithm: type[MaskablePPO] | type[PPO]) -> Callable[[int], None]:
    """A turn of an SB3 learner on the same job."""
    ppo = config.ppo
    model = algorithm(
        "MlpPolicy",
        job(config).environments(),
        n_steps=ppo.rollout_steps,
        policy_kwargs=policy_kwargs(ppo),
        device="cpu",
        seed=0,
        **hyperparameters(ppo),
    )
    return turn_of(model, ppo)


def turn_of(model: OnPolicyAlgorithm, ppo: PPOConfig) -> Callable[[int], None]:
    """A turn of an SB3 learner with these settings."""
    model.set_logger(configure(None, []))

    def turn(rollouts: int) -> None:
        model.learn(rollouts * ppo.num_envs * ppo.rollout_steps, reset_num_timesteps=False, log_interval=None)

    return turn


def job(config: Config) -> Job:
    """Training on a planted market of 12,000 bars."""
    return single_asset_job(planted_tape(12_000, 0), [(0, 10_000)], [(10_000, 12_000)], config, seed=0)


def take_turns(
    learners: dict[str, Callable[[int], None]], config: Config, turns: int, *, rollouts: int
) -> dict[str, float]:
    """Median steps per second of each learner over its turns; a first turn warms up."""
    steps = rollouts * config.ppo.num_envs * config.ppo.rollout_steps
    rates: dict[str, list[float]] = {name: [] for name in learners}
    for number in range(turns + 1):
        for name, turn in learners.items():
            begin = time.perf_counter()
            turn(rollouts)
            if number:
                rates[name].append(steps / (time.perf_counter() - begin))
    return {name: statistics.median(each) for name, each in rates.items()}


def flop_per_step(config: Config) -> float:
    """Floating-point operations of both nets per environment step: the rollout and 3 passes' worth per epoch."""
    widths = (OBSERVATIONS, *config.ppo.hidden)
    weights = 2 * sum(a * b for a, b in pairwise(widths)) + widths[-1] * (ACTIONS + 1)
    # no gradient is asked for the observations, so the first layer's backward pass has one product, not two
    first = 2 * widths[0] * widths[1]
    return 2 * weights + config.ppo.epochs * 2 * (3 * weights - first)


def matmul_flop_per_s(samples: int, inputs: int, units: int) -> float:
    """What one product of a minibatch with a layer reaches."""
    batch, weight = torch.randn(samples, inputs), torch.randn(inputs, units)
    times_s = []
    for _ in range(20):
        begin = time.perf_counter()
        torch.mm(batch, weight)
        times_s.append(time.perf_counter() - begin)
    return 2 * batch.numel() * units / statistics.median(times_s)


def describe(config: Config) -> str:
    """The settings that decide speed."""
    ppo = config.ppo
    return (
        f"net {list(ppo.hidden)} x 2, {ppo.num_envs} envs x {ppo.rollout_steps} steps, "
        f"minibatch {ppo.minibatch_size}, {ppo.epochs} epochs"
    )


def report(rates: dict[str, float]) -> None:
    """Print each learner's rate and ours over it."""
    width = max(map(len, rates)) + 2
    for name, rate in rates.items():
        print(f"  {name:<{width}}{rate:>10,.0f} steps/s   ours is {rates['ours'] / rate:.2f}x")


if __name__ == "__main__":
    main()
