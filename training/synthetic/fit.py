"""Parameters of synthetic worlds from the bars before a given row: simple robust estimators, one after another.

1. Jumps: returns beyond `JUMP_DEVIATIONS` local deviations (Lee & Mykland 2008, with trailing bipower variation).
2. Regimes: scores of trailing returns against thresholds with hysteresis, known before the bar they stand for. Drift,
   volatility and jumps of a regime are those of the bars that follow, so nothing is selected by its own outcome.
3. GARCH(1,1) by `arch` on returns without jumps, divided by their regime's volatility multiple.
4. Volume on range, in differences: years of growing volume are no noise of a bar.

What the data cannot say keeps its preset value; `Parameters.source` says which and why.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from configs.calendar import shifted
from configs.schema import Config
from training.market import Bars
from training.splits import month_rows, split, tail_start
from training.synthetic.kernel import filtered_regimes, local_deviation
from training.synthetic.parameters import RANGE, REGIMES, Parameters, Regime, preset_parameters

MIN_RETURNS = 1_000
"""Fewer and everything is preset."""
MIN_REGIME_BARS = 250
MIN_JUMPS = 20
LOCAL_BARS = 120
JUMP_DEVIATIONS = 5.0
"""About Lee & Mykland's 1 % threshold for 10,000 to 100,000 bars (their eq. 12)."""
WINDOWS = (240, 24)
"""Bars of the trend's and of the crash's trailing return."""
THRESHOLDS = (1.0, 0.5, -3.0, -1.0)
"""Scores at which a trend begins and ends, a crash begins and ends."""
PRIOR_BARS = 100.0
"""Bars that the preset row of transitions counts for: a posterior mean, never 0."""
GARCH_BARS = 50_000
"""Newest bars that the GARCH is fitted to: enough for standard errors of 0.01, a second of work."""
MOST_PERSISTENCE = 0.995
MOST_RETURN = 0.5
"""A bar's log return counts as no larger: a false tick must not become the size of all jumps."""
MOST_DRIFT = 0.5
"""In deviations per bar."""
VOLATILITY_LIMITS = (1e-6, 0.1)
MULTIPLE_LIMITS = (0.2, 6.0)
MIN_TRADED_FRAC = 0.5
"""Fewer bars with a volume above 0 and the market counts as one that reports none."""
MOST_VOLUME_NOISE = 2.0


@dataclass(frozen=True)
class Sample:
    """Log returns inside segments, and what each bar's past says; (n,) each."""

    returns: np.ndarray
    segment: np.ndarray
    jump: np.ndarray
    """bool."""
    regime: np.ndarray
    """int8, -1 where the segment is too young to tell."""

    @property
    def clean(self) -> np.ndarray:
        """Returns, 0 where a jump hides the rest."""
        return np.where(self.jump, 0.0, self.returns)


def fit_stop_row(bars: Bars, config: Config) -> int:
    """The row before which every stage may look: the end of the training part, or where that comes earlier the tail of
    the first walk-forward window's training months, on which pre-trained agents are selected and the ablation measures
    them against others."""
    stop, settings = split(len(bars), config.splits).train[1], config.walk_forward
    if settings.windows and settings.first_test_month:
        month = settings.first_test_month
        window = month_rows(bars.t, shifted(month, -settings.train_months), shifted(month, -1))
        stop = min(stop, tail_start(window, config))
    return stop


def fit_parameters(bars: Bars, stop_row: int, config: Config) -> Parameters:
    """Parameters fitted to the bars before `stop_row`; no later bar is read."""
    preset, seen = preset_parameters(config), bars.slice(0, stop_row)
    sample = sample_of(seen)
    if sample is None:
        reason = f"preset: fewer than {MIN_RETURNS} returns before row {stop_row}, or a constant price"
        return replace(preset, source=dict.fromkeys(preset.source, reason))
    multiples = [_multiple(sample, place, preset) for place in range(len(REGIMES))]
    parameters = _fit_garch(preset, sample.clean / np.array([*multiples, 1.0])[sample.regime])
    parameters = _fit_regimes(parameters, sample, multiples)
    parameters = _fit_transitions(parameters, sample)
    return _fit_volume(parameters, seen)


def sample_of(bars: Bars) -> Sample | None:
    """What the estimators read; None with too few returns, or none that differs from 0."""
    inside = np.flatnonzero(np.diff(bars.segment) == 0)
    returns, segment = np.log(bars.close[inside + 1] / bars.close[inside]), bars.segment[inside + 1]
    returns = np.clip(returns, -MOST_RETURN, MOST_RETURN)
    if returns.size < MIN_RETURNS or not np.any(returns):
        return None
    local = np.empty(returns.size)
    local_deviation(returns, segment, LOCAL_BARS, local)
    # NaN, in a young segment, compares false: no jump is told there
    jump = (local > 0) & (np.abs(returns) > JUMP_DEVIATIONS * local)
    deviation = np.where(jump, 0.0, returns).std()
    if not deviation:
        return None
    regime = np.empty(returns.size, np.int8)
    filtered_regimes(returns, segment, deviation, WINDOWS, THRESHOLDS, regime)
    return Sample(returns, segment, jump, regime)


def _multiple(sample: Sample, place: int, preset: Parameters) -> float:
    """Volatility of a regime's bars over that of all."""
    rows = sample.regime == place
    if np.count_nonzero(rows) < MIN_REGIME_BARS:
        return preset.regimes[place].volatility
    clean = sample.clean
    return float(np.clip(np.sqrt(np.mean(clean[rows] ** 2) / np.mean(clean**2)), *MULTIPLE_LIMITS))


def _fit_garch(parameters: Parameters, x: np.ndarray) -> Parameters:
    """Volatility and GARCH(1,1) of returns `x` without jumps and regimes; omega follows from the variance."""
    from arch import arch_model  # a second of imports that no user of `generate` needs

    volatility, error = _limited_deviation(x)
    found = _with(parameters, {"volatility": "fitted"}, {"volatility": error}, volatility=volatility)
    newest = x[-GARCH_BARS:]
    if not newest.std():
        return _with(found, {"garch": f"preset: no return in the last {newest.size:,} bars"}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether it converged is asked below
        model = arch_model(newest / newest.std(), mean="Zero", vol="GARCH", p=1, q=1, rescale=False)
        result = model.fit(disp="off", show_warning=False)
    alpha, beta = (float(result.params[name]) for name in ("alpha[1]", "beta[1]"))
    if result.convergence_flag != 0 or not math.isfinite(alpha + beta):
        return _with(found, {"garch": f"preset: arch did not converge (flag {result.convergence_flag})"}, {})
    errors = {name: float(result.std_err[f"{name}[1]"]) for name in ("alpha", "beta")}
    errors = {name: value for name, value in errors.items() if math.isfinite(value)}
    source = "fitted"
    if alpha + beta > MOST_PERSISTENCE:
        shrink = MOST_PERSISTENCE / (alpha + beta)
        source = f"fitted, persistence {alpha + beta:.4f} held at {MOST_PERSISTENCE}"
        alpha, beta = alpha * shrink, beta * shrink
    return _with(found, {"garch": source}, errors, alpha=alpha, beta=beta)


def _limited_deviation(x: np.ndarray) -> tuple[float, float]:
    """Standard deviation within `VOLATILITY_LIMITS`, and its standard error for independent draws."""
    deviation = float(np.clip(x.std(), *VOLATILITY_LIMITS))
    kurtosis = float(np.mean((x - x.mean()) ** 4) / x.var() ** 2)
    return deviation, deviation * math.sqrt((kurtosis - 1) / (4 * x.size))


def _fit_regimes(parameters: Parameters, sample: Sample, multiples: list[float]) -> Parameters:
    """Drift and jumps of each regime from the bars that followed its signal."""
    all_sizes = sample.returns[sample.jump] / parameters.volatility
    regimes, sources, errors = [], {}, {}
    for place, (name, preset) in enumerate(zip(REGIMES, parameters.regimes, strict=True)):
        rows = sample.regime == place
        count, regime = int(np.count_nonzero(rows)), replace(preset, volatility=multiples[place])
        if count < MIN_REGIME_BARS:
            sources[name] = f"preset: {count} bars of it, fewer than {MIN_REGIME_BARS}"
            regimes.append(preset)
            continue
        returns = sample.returns[rows] / parameters.volatility
        drift = float(np.clip(returns.mean() + parameters.volatility * returns.var() / 2, -MOST_DRIFT, MOST_DRIFT))
        error = float(returns.std() / np.sqrt(count))
        sources[name], errors[f"{name}.drift"] = f"fitted to {count:,} bars", error
        if place != RANGE and drift * preset.drift > 0 and abs(drift) > error:
            regime = replace(regime, drift=drift)
        else:
            kept = "0 by definition" if place == RANGE else f"preset (measured {drift:+.4f} +- {error:.4f})"
            sources[f"{name}.drift"] = kept
        regime, sources[f"{name}.jumps"] = _jumps(regime, sample.jump[rows], returns, all_sizes)
        errors[f"{name}.volatility"] = multiples[place] / math.sqrt(2 * count)
        errors[f"{name}.jump_intensity"] = math.sqrt(regime.jump_intensity / count)
        regimes.append(regime)
    return _with(parameters, sources, errors, regimes=tuple(regimes))


def _jumps(regime: Regime, jump: np.ndarray, returns: np.ndarray, all_sizes: np.ndarray) -> tuple[Regime, str]:
    """Intensity of a regime's own jumps; their sizes from its own, else from all regimes', else preset."""
    regime = replace(regime, jump_intensity=float(jump.mean()))
    sizes, source = returns[jump], "fitted"
    if sizes.size < MIN_JUMPS:
        sizes, source = all_sizes, "sizes of all regimes"
    if sizes.size < MIN_JUMPS:
        return regime, f"sizes preset: {sizes.size} jumps in all regimes, fewer than {MIN_JUMPS}"
    return replace(regime, jump_mean=float(sizes.mean()), jump_deviation=float(sizes.std())), source


def _fit_transitions(parameters: Parameters, sample: Sample) -> Parameters:
    """Posterior means of the rows, the preset's row counting for `PRIOR_BARS` bars."""
    before, after = sample.regime[:-1], sample.regime[1:]
    known = (before >= 0) & (after >= 0) & (np.diff(sample.segment) == 0)
    counts = np.zeros((len(REGIMES), len(REGIMES)))
    np.add.at(counts, (before[known], after[known]), 1.0)
    bars = counts.sum(axis=1)
    rows = (counts + PRIOR_BARS * np.array(parameters.transitions)) / (bars[:, None] + PRIOR_BARS)
    sources = {"transitions": f"fitted: {int(bars.sum()):,} steps and a prior of {PRIOR_BARS:.0f} per regime"}
    stay = np.diag(rows)
    deviations = np.sqrt(stay * (1 - stay) / (bars + PRIOR_BARS))
    errors = {f"{name}.stay": float(value) for name, value in zip(REGIMES, deviations, strict=True)}
    return _with(parameters, sources, errors, transitions=tuple(tuple(row) for row in rows.tolist()))


def _fit_volume(parameters: Parameters, bars: Bars) -> Parameters:
    """Median range, and log volume on log range by differences of consecutive bars."""
    width = np.log(bars.high / bars.low)
    moved, traded = width > 0, bars.volume > 0
    typical = float(np.median(width[moved])) if moved.any() else parameters.typical_range
    found = _with(parameters, {}, {}, typical_range=typical)
    if np.mean(traded) < MIN_TRADED_FRAC:
        return _with(found, {"volume": "none in the data"}, {}, volume=0.0)
    found = replace(found, volume=float(np.median(bars.volume[traded])))
    usable = moved & traded
    pairs = usable[1:] & usable[:-1] & (np.diff(bars.segment) == 0)
    if np.count_nonzero(pairs) < MIN_RETURNS:
        return _with(found, {"volume": "median fitted, elasticity and noise preset"}, {})
    x, y = (np.diff(np.log(np.where(usable, values, 1.0)))[pairs] for values in (width, bars.volume))
    if not x.any():
        return _with(found, {"volume": "median fitted, elasticity and noise preset: the range is constant"}, {})
    slope = float(np.clip((x @ y) / (x @ x), 0.0, 2.0))
    residual = float((y - slope * x).std())
    error = residual / math.sqrt(x @ x)
    # the difference of two independent noises has twice their variance
    return _with(
        found,
        {"volume": "fitted"},
        {"volume_elasticity": error},
        volume_elasticity=slope,
        volume_noise=min(residual / math.sqrt(2.0), MOST_VOLUME_NOISE),
    )


def _with(parameters: Parameters, source: dict[str, str], errors: dict[str, float], **values: Any) -> Parameters:
    """The parameters with new values, and a word on where they came from."""
    return replace(
        parameters,
        source=parameters.source | source,
        standard_errors=parameters.standard_errors | errors,
        **values,
    )
