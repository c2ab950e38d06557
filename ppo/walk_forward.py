"""Walk-forward windows: an agent trained on some months, selected on the last of their bars, judged on the next month.

A window's rows are chosen by full calendar months (UTC). All that an agent of
month m is made of (scaler, predictions, weights, the choice of its best policy)
comes from bars before m; month m is played once. Agents decide first at the close
of a month's first bar and are in cash at the close of its last, with costs: these
seams cost each month one bar and one closing.
N = bars.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from configs.calendar import shifted
from configs.errors import BadDataError
from configs.run_dir import RunDir
from configs.schema import Config, PPOConfig
from ppo.learner.train import Job, single_asset_job
from ppo.tape import Tape, build_tape, spans
from training.crossfit import soft_vote
from training.market import Bars
from training.rolling import predicted_months
from training.scaling import Scaler
from training.splits import month_rows, tail_start
from training.stages.prepare import load_prepared
from training.streams import integer

CLASSIFIER = "classifier-"
AGENTS = "agents.json"
"""What the unit of a window writes about the agents of its seeds."""


@dataclass(frozen=True)
class Window:
    """Half-open ranges of bars of one test month."""

    month: str
    """The test month, `YYYY-MM`."""
    fit: tuple[int, int]
    """The training months."""
    train: tuple[int, int]
    """The first of them, purged by the label horizon: episodes."""
    validation: tuple[int, int]
    """Their last share: selects the agent."""
    test: tuple[int, int]

    def moved(self, by: int) -> Window:
        """The same window in rows counted from another first bar."""
        fit, train, validation, test = (
            (start + by, stop + by) for start, stop in (self.fit, self.train, self.validation, self.test)
        )
        return Window(self.month, fit, train, validation, test)


@dataclass(frozen=True)
class WindowData:
    """What the agents of one window see: the bars from its first training month to the end of its test month."""

    window: Window
    """In rows of the tape."""
    first_row: int
    """Of the tape, in the whole series."""
    tape: Tape
    scaler: Scaler
    """Fitted on the window's training months."""

    def spans(self, part: str) -> list[tuple[int, int]]:
        """Runs of bars to play in `train`, `validation` or `test`, in rows of the tape.

        Raises:
            BadDataError: there is none.
        """
        found = spans(self.tape, *getattr(self.window, part))
        if not found:
            raise BadDataError(
                f"the {part} part of window {self.window.month} has no two bars in a row that an agent may decide on; "
                "use a series with fewer gaps, or fewer walk_forward.windows"
            )
        return found


def window_months(config: Config) -> list[str]:
    """The months that are traded, in order; one window each."""
    return predicted_months(config)[config.walk_forward.train_months :]


def window_of(t: np.ndarray, month: str, config: Config) -> Window:
    """The rows of one window among bars that open at `t` (N,).

    Raises:
        BadDataError: a part has no bar.
    """
    settings = config.walk_forward
    rolling = settings.scheme == "rolling"
    first = shifted(month, -settings.train_months) if rolling else predicted_months(config)[0]
    start, stop = month_rows(t, first, shifted(month, -1))
    selecting = tail_start((start, stop), config)
    trained = max(start, selecting - config.labels.horizon_bars)
    window = Window(month, (start, stop), (start, trained), (selecting, stop), month_rows(t, month, month))
    _check_enough(window, config)
    return window


def within_tail(window: Window, config: Config) -> Window:
    """The window with its tail in two: the first half, purged by the label horizon, selects; the second is the test.

    Raises:
        BadDataError: a half has too few bars.
    """
    start, stop = window.validation
    middle = (start + stop) // 2
    halved = replace(window, validation=(start, middle - config.labels.horizon_bars), test=(middle, stop))
    _check_enough(halved, config)
    return halved


def _check_enough(window: Window, config: Config) -> None:
    least = {"train": 2, "validation": 2 * config.ppo.eval_slices, "test": 2}
    for part, bars in least.items():
        first_row, stop_row = getattr(window, part)
        found = max(0, stop_row - first_row)
        if found < bars:
            raise BadDataError(
                f"window {window.month} has {found} bars in its {part} part, at least {bars} are needed; "
                "use a shorter timeframe or more walk_forward.train_months, or leave the stage out by --stages"
            )


def window_data(bars: Bars, features: np.ndarray, predictions: pd.DataFrame, month: str, config: Config) -> WindowData:
    """Cut one window from a series; what lies outside the window's months is not read.

    Args:
        bars: a series that holds the window.
        features: (N, 26) unscaled.
        predictions: the soft vote of the monthly predictions, one row per bar.
        month: test month.
        config: sections walk_forward, labels, features and ensemble are read.
    """
    window = window_of(bars.t, month, config)
    first, stop = window.fit[0], window.test[1]
    own = features[slice(*window.fit)]
    scaler = Scaler.fit(own[np.isfinite(own).all(axis=1)], config.features.clip)
    voted = predictions.iloc[first:stop].reset_index(drop=True)
    tape = build_tape(bars.slice(first, stop), features[first:stop], voted, scaler, config)
    return WindowData(window.moved(-first), first, tape, scaler)


def load_window(run: RunDir, month: str, config: Config) -> WindowData:
    """One window of a run, of the files of `prepare` and of the monthly classifiers; only its own months are loaded.

    Raises:
        BadDataError: a file is missing, or the window has too few bars.
    """
    t = pd.read_parquet(run.require_output("prepare", "bars.parquet"), columns=["t"])["t"].to_numpy()
    window = window_of(t, month, config)
    first, stop = window.fit[0], window.test[1]
    months = [("t", ">=", int(t[first])), ("t", "<=", int(t[stop - 1]))]
    prepared = load_prepared(run, months)
    data = window_data(prepared.bars, prepared.features, load_monthly_vote(run, config, months), month, config)
    return replace(data, first_row=first)


def load_monthly_vote(run: RunDir, config: Config, rows: list[tuple] | None = None) -> pd.DataFrame:
    """The ensemble's columns of a run's monthly predictions; of some rows only where a Parquet filter is given."""
    members = config.ensemble.members
    paths = {name: run.require_output(f"walk_forward/{CLASSIFIER}{name}", "predictions.parquet") for name in members}
    return soft_vote({name: pd.read_parquet(path, filters=rows) for name, path in paths.items()})


def window_ppo(config: Config) -> PPOConfig:
    """The base agent's settings for a window's steps; validated as often over these as the base agent over its own."""
    asked, ppo = config.walk_forward.timesteps, config.ppo
    every = max(1, round(ppo.eval_every_steps * asked / ppo.timesteps))
    return ppo.model_copy(update={"timesteps": asked, "eval_every_steps": every})


def whole_steps(ppo: PPOConfig) -> int:
    """Environment steps that a training takes: whole rollouts."""
    per_rollout = ppo.num_envs * ppo.rollout_steps
    return -(-ppo.timesteps // per_rollout) * per_rollout


def window_job(data: WindowData, config: Config, seed: int) -> Job:
    """The training of one seed's agent of a window; its streams are named by month and seed alone."""
    root = integer(config.seed, "walk_forward", data.window.month, seed)
    return single_asset_job(data.tape, data.spans("train"), data.spans("validation"), config, root, window_ppo(config))
