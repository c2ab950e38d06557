"""Pre-training: what an agent plays before it ever sees the market, generated stress worlds.

All scenarios stand on one tape, each a segment of its own. No classifier exists yet: the prediction block is the
zero vector of "no prediction", so the observation is as large as the base agent's and the weights can be handed over.
Scenarios are made again from the parameters and their indices; those that select the policy have a stream of their own,
and those that say afterwards what it is worth another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from configs.schema import Config, PPOConfig
from ppo.evaluate import Spans
from ppo.learner.rollout import Environments
from ppo.learner.train import Job, single_asset_job
from ppo.learner.validate import Validator
from ppo.replay import ReplayVecEnv
from ppo.tape import Tape, finish_tape, prediction_columns, spans
from training.features import FEATURE_NAMES, MARKET_OBSERVATION
from training.scaling import Scaler
from training.streams import integer
from training.synthetic import Parameters, ScenarioSplit, Worlds, generate, worlds_tape_inputs

VALIDATION_SCENARIOS = 10
"""They select the policy, and as many others judge it; the share of crash scripts is that of the training scenarios."""


def pretraining_job(parameters: Parameters, config: Config, seed_index: int) -> tuple[Job, Scaler]:
    """The pre-training of one seed, and the scaler of the five market columns, fitted on the training scenarios.

    Raises:
        BadDataError: a scenario is no longer than the warm-up of its features.
    """
    ppo = pretraining_ppo(config)
    tape, scaler = scenario_tape(scenarios(parameters, config, "train", config.synthetic.scenarios), config)
    job = single_asset_job(tape, whole(tape), [], config, integer(config.seed, "pretrain", seed_index), ppo)
    if config.pretrain.replay == "prioritised":
        job = replace(job, environments=_prioritised(tape, job))
    chosen_by, _ = scenario_tape(scenarios(parameters, config, "validation", VALIDATION_SCENARIOS), config, scaler)
    return replace(job, validator=lambda: _validator(chosen_by, config)), scaler


def tester(parameters: Parameters, config: Config, scaler: Scaler) -> Validator:
    """Plays policies as validation does, on as many scenarios that select nothing."""
    tape, _ = scenario_tape(scenarios(parameters, config, "test", VALIDATION_SCENARIOS), config, scaler)
    return _validator(tape, config)


def _validator(tape: Tape, config: Config) -> Validator:
    return Validator(tape, cut(whole(tape), config.env.episode_bars), config, pretraining_ppo(config).eval_slices)


def pretraining_ppo(config: Config) -> PPOConfig:
    """The base learner's settings, over the timesteps of pre-training."""
    return config.ppo.model_copy(update={"timesteps": config.pretrain.timesteps})


def scenarios(parameters: Parameters, config: Config, split: ScenarioSplit, count: int) -> Worlds:
    """The first `count` scenarios of a split of the run."""
    return generate(parameters, config.synthetic, config.seed, split, 0, count)


def scenario_tape(worlds: Worlds, config: Config, scaler: Scaler | None = None) -> tuple[Tape, Scaler]:
    """Scenarios one after another, without predictions.

    Args:
        worlds: S scenarios of T bars.
        config: decides features, the width of the prediction block and the clip.
        scaler: of the five market columns; by default fitted on these scenarios.

    Returns:
        A tape of S x T rows, and the scaler.
    """
    bars, market = worlds_tape_inputs(worlds, config)
    ready = np.isfinite(market).all(axis=1)
    scaler = scaler or Scaler.fit(market[ready], config.features.clip)
    block = np.zeros((len(bars), prediction_columns(config)), np.float32)
    return finish_tape(bars, block, scaler.transform(market), ready, config.env.observation_clip), scaler


def market_scaler(scaler: Scaler) -> Scaler:
    """The five market columns of a scaler of all 26 features."""
    columns = [FEATURE_NAMES.index(name) for name in MARKET_OBSERVATION]
    return Scaler(scaler.mean[columns], scaler.std[columns], scaler.clip)


def whole(tape: Tape) -> Spans:
    """Every bar of a tape that can be played."""
    return spans(tape, 0, len(tape))


def cut(spans: Spans, bars: int) -> Spans:
    """Spans in pieces of at most `bars` bars, to play them side by side; a single bar is left out."""
    return [(at, min(at + bars, stop)) for first, stop in spans for at in range(first, stop - 1, bars)]


def _prioritised(tape: Tape, job: Job) -> Callable[[], Environments]:
    seed = integer(job.seed, "episodes")
    return lambda: ReplayVecEnv(tape, whole(tape), job.config, job.ppo.num_envs, seed)
