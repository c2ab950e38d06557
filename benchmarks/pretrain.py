"""Pre-training of the quick profile on one core: how long its scenarios take to make ready, and what level replay
costs beside uniform starts, in one run.

Run: `OMP_NUM_THREADS=1 python -m benchmarks.pretrain [--rollouts N]`.
"""

from __future__ import annotations

import argparse
import time

from configs.load import resolve
from ppo.learner.train import advance, start
from ppo.pretrain import pretraining_job
from training.determinism import set_up_torch
from training.synthetic import preset_parameters


def main() -> int:
    """Time the job and the rollouts with their updates; the kinds of starts take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=8, help="of each kind of starts; the fastest counts")
    rollouts = parser.parse_args().rollouts
    set_up_torch(1)
    learners = {}
    for replay in ("uniform", "prioritised"):
        settings = (f"pretrain.replay={replay}", "compute.device=cpu")
        config = resolve("BTC-USDT_1H", "quick", settings=settings).config
        began_s = time.perf_counter()
        job, _ = pretraining_job(preset_parameters(config), config, 0)
        ready_s = time.perf_counter() - began_s
        learners[replay] = (start(job), job.ppo)
        advance(*learners[replay])
    print(f"{config.synthetic.scenarios} scenarios x {config.synthetic.bars:,} bars made ready in {ready_s:.2f} s")
    fastest_s = dict.fromkeys(learners, float("inf"))
    for _ in range(rollouts):
        for replay, learner in learners.items():
            began_s = time.perf_counter()
            advance(*learner)
            fastest_s[replay] = min(fastest_s[replay], time.perf_counter() - began_s)
    steps = job.ppo.num_envs * job.ppo.rollout_steps
    for replay, best_s in fastest_s.items():
        print(f"{replay:<12} {steps / best_s:9,.0f} steps/s")
    print(
        f"a rollout with its update takes {fastest_s['prioritised'] / fastest_s['uniform'] - 1:+.1%} with level replay"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
