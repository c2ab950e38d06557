"""5,000,000 bars of stress worlds: generation alone, then all 26 features, in one run on one core.

Run: `python -m benchmarks.synthetic [--scenarios N]`.
"""

from __future__ import annotations

import argparse
import resource
import time

from benchmarks.features import best_of
from configs.load import resolve
from training.synthetic import PRESET, generate, worlds_tape_inputs

GENERATION_TARGET_S = 4.0
TOTAL_TARGET_S = 10.0


def main() -> int:
    """Time both steps of the full profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", type=int, default=500)
    count = parser.parse_args().scenarios
    config = resolve("BTC-USDT_1H", "full").config
    began = time.perf_counter()
    generate(PRESET, config.synthetic, config.seed, "train", 0, 1)
    compile_s = time.perf_counter() - began
    generate_s, worlds = best_of(lambda: generate(PRESET, config.synthetic, config.seed, "train", 0, count))
    features_s, _ = best_of(lambda: worlds_tape_inputs(worlds, config))
    bars = worlds.close.size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    settings = config.synthetic
    print(f"{count} scenarios x {settings.bars:,} bars of {settings.path_steps} moves, one core, best of 3")
    print(f"  first scenario    {compile_s:7.2f} s  compiles, or reads numba's cache")
    print(
        f"  generation        {generate_s:7.2f} s  {bars / generate_s / 1e6:.1f} M/s (target {GENERATION_TARGET_S} s)"
    )
    print(f"  26 features       {features_s:7.2f} s  of every bar; the market block is kept")
    print(f"  both              {generate_s + features_s:7.2f} s  (target {TOTAL_TARGET_S} s on two cores)")
    print(f"  peak memory       {peak / 1e9:7.2f} GB (target 1.5 GB; two sets of worlds while one is timed)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
