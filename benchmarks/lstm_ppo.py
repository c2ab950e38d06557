"""Training speed with memory: our LSTM-PPO beside sb3-contrib's RecurrentPPO, same environments, sizes and settings.

Run with `python -m benchmarks.lstm_ppo [--threads 2] [--profile quick]` on an idle machine. Both have separate LSTMs
for actor and critic, the same tanh layers, environments, sequence length (the rollout), epochs and samples per
minibatch; RecurrentPPO has no action masks. It stands there a second time with the minibatch it has by default,
which takes more gradient steps on the same data. The learners take turns, so that a busy machine slows them alike;
the figure of each is the median of its turns. The last line is our floating-point rate in the update as a share of
what one matrix product of a whole minibatch with an LSTM's gates reaches, which no loop over steps can: it
multiplies a step's rows at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from sb3_contrib import RecurrentPPO

from benchmarks.ppo import matmul_flop_per_s, ours, report, take_turns, turn_of
from configs.load import resolve
from configs.schema import Config, LstmPPOConfig
from ppo.export import hyperparameters
from ppo.learner.rollout import collect
from ppo.learner.train import Job, single_asset_job, start
from ppo.learner.update import samples_of, update
from tests.ppo.worlds import planted_tape
from training.determinism import set_up_torch

OWN_MINIBATCH = 128
"""RecurrentPPO's default."""


def main() -> None:
    """Print both rates, their ratio, where our time goes and how far from the floating-point limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", default="quick")
    arguments = parser.parse_args()
    set_up_torch(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {arguments.turns} turns")
    config = resolve("DEMO-USD_1H", arguments.profile, settings=["compute.device=cpu"]).config
    settings = config.lstm_ppo
    print(
        f"{arguments.profile}: LSTMs of {settings.memory_units} and layers {list(settings.hidden)} x 2, "
        f"{settings.num_envs} envs x {settings.rollout_steps} steps, minibatch {settings.minibatch_size}, "
        f"{settings.epochs} epochs"
    )
    config = config.model_copy(update={"ppo": settings})
    learners = {
        "ours": ours(job(config)),
        "RecurrentPPO": theirs(config, settings.minibatch_size),
        f"RecurrentPPO, its own minibatch of {OWN_MINIBATCH}": theirs(config, OWN_MINIBATCH),
    }
    report(take_turns(learners, config, arguments.turns, rollouts=1))
    breakdown(config)


def job(config: Config) -> Job:
    """Training on a planted market of 12,000 bars."""
    tape = planted_tape(12_000, 0)
    return single_asset_job(tape, [(0, 10_000)], [(10_000, 12_000)], config, 0, config.lstm_ppo)


def theirs(config: Config, minibatch_size: int) -> Callable[[int], None]:
    """A turn of RecurrentPPO on the same job, with so many samples in a gradient step."""
    ppo = config.lstm_ppo
    net = {"pi": list(ppo.hidden), "vf": list(ppo.hidden)}
    model = RecurrentPPO(
        "MlpLstmPolicy",
        job(config).environments(),  # type: ignore[arg-type]
        n_steps=ppo.rollout_steps,
        policy_kwargs={"net_arch": net, "lstm_hidden_size": ppo.memory_units, "activation_fn": torch.nn.Tanh},
        device="cpu",
        seed=0,
        **hyperparameters(ppo) | {"batch_size": minibatch_size},
    )
    return turn_of(model, ppo)


def breakdown(config: Config) -> None:
    """Print seconds of a rollout and of an update, and the floating-point rate of the update."""
    ppo: LstmPPOConfig = config.lstm_ppo
    state, times_s = start(job(config)), []
    for _ in range(4):
        begin = time.perf_counter()
        rollout, state.carry = collect(state.policy, state.envs, state.carry, ppo.rollout_steps, state.generator)
        middle = time.perf_counter()
        update(state.policy, state.optimizer, samples_of(state.policy, rollout, ppo), ppo, state.generator)
        times_s.append((middle - begin, time.perf_counter() - middle))
    played_s, learnt_s = (statistics.median(column) for column in zip(*times_s[1:], strict=True))
    samples = ppo.num_envs * ppo.rollout_steps
    achieved = samples * ppo.epochs * update_flop_per_sample(config) / learnt_s
    peak = matmul_flop_per_s(ppo.minibatch_size, ppo.memory_units, 4 * ppo.memory_units)
    print(f"  a rollout takes {played_s:.3f} s, its update {learnt_s:.3f} s")
    print(f"  update: {achieved / 1e9:.1f} of {peak / 1e9:.1f} GFLOP/s of one whole product: {achieved / peak:.0%}")


def update_flop_per_sample(config: Config) -> float:
    """Forward and backward of both nets; no gradient is asked for the observations."""
    sizes, memory = job(config).sizes, config.lstm_ppo.memory_units
    widths = (sizes.observation + memory, *sizes.hidden)
    layers = sum(a * b for a, b in zip(widths, widths[1:], strict=False))
    inputs, recurrent = 4 * memory * sizes.observation, 4 * memory * memory
    weights = 2 * (inputs + recurrent + layers) + widths[-1] * (sizes.actions + 1)
    return 2 * (3 * weights - 2 * inputs - 2 * sizes.observation * widths[1])


if __name__ == "__main__":
    main()
