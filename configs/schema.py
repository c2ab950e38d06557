"""The schema of a run: every number that a run depends on, with its default and its source.

Sections in `OPERATIONAL_SECTIONS` say how a run is carried out (how many units
side by side, time limits, where it is kept, what it may cost) and what is measured
beside it on demand; they are no part of a run's identity. All others are.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from configs.assets import DatasetName

Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Window = Annotated[int, Field(ge=2)]
Windows3 = tuple[Window, Window, Window]
Member = Literal["lstm", "gru", "bilstm", "dlstm"]
AssetClass = Literal["crypto", "fx", "commodity"]
GatedStage = Literal["pretrain", "ppo", "lstm_ppo", "multi_asset", "walk_forward"]
GateMetric = Literal["done", "validation_sharpe"]

HOST = r"([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?"
GIT_URL = re.compile(rf"https?://{HOST}/\S+|ssh://(\w[\w.-]*@)?{HOST}/\S+|\w[\w.-]*@[\w.-]+:[^\s:-]\S*|file:///\S+")
BRANCH = re.compile(r"(?!.*\.lock(/|$))\w[\w+-]*([./][\w+-]+)*", re.ASCII)
MIN_WINDOW_STEPS, MIN_WINDOW_EPOCHS = 100_000, 3
OPERATIONAL_SECTIONS = frozenset({"runtime", "preflight", "store", "budget", "publish", "ablation"})


class Model(BaseModel):
    """Base of every config model: unknown keys are errors, numbers are finite, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class DatasetConfig(Model):
    """Which bars, and how the file is read."""

    name: str
    """`<BASE>-<QUOTE>_<TIMEFRAME>[_<YYYYMMDD>-<YYYYMMDD>]`."""
    asset_class: AssetClass
    """Taken from the symbol's parts; declare it with `--set dataset.asset_class=...`."""
    repair: Literal["none", "drop"] = "none"
    """`drop` drops faulty rows and lists them; `none` refuses the file."""
    timezone: str = "auto"
    """Time zone of stamps that carry none; `auto` takes the source format's own."""
    resample: bool = False
    """Build the asked timeframe from a lower one."""
    synthetic: bool = False
    """The bars are generated, not traded; said wherever a result is shown."""

    @model_validator(mode="after")
    def _name_is_wellformed(self) -> DatasetConfig:
        DatasetName.parse(self.name)
        return self


class MarketConfig(Model):
    """What kind of market the asset class is."""

    bars_per_year: Positive
    """Annualisation factor of the dataset's timeframe, printed beside every ratio."""
    max_gap_s: PositiveInt
    """A longer gap between two stamps starts a new segment."""
    directional_change_frac: Positive
    """Reversal that counts as a change of direction."""


class CostsConfig(Model):
    """What trading costs."""

    fee_frac: Annotated[float, Field(ge=0, le=0.1)]
    """Fee as a share of traded notional."""
    slippage_frac: Annotated[float, Field(ge=0, le=0.1)]
    """Buys fill at open x (1 + s), sells at open x (1 - s)."""
    borrow_frac_per_year: Annotated[float, Field(ge=0, le=10)]
    """Borrow rate on the notional of a short."""


class FeaturesConfig(Model):
    """Parameters of the 26 feature columns (TA-Lib definitions)."""

    sma_windows: Windows3
    ema_windows: Windows3
    rsi_period: Annotated[int, Field(ge=2)]
    atr_period: PositiveInt
    adx_period: Annotated[int, Field(ge=2)]
    bollinger_period: Annotated[int, Field(ge=2)]
    return_bars: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 5, 10, 20)
    macd: tuple[Window, Window, PositiveInt] = (12, 26, 9)
    bollinger_deviations: Positive = 2.0
    cci_period: Annotated[int, Field(ge=2)] = 20
    stochastic: tuple[PositiveInt, PositiveInt, PositiveInt] = (14, 3, 3)
    volume_window: Annotated[int, Field(ge=2)] = 20
    obv_window: Annotated[int, Field(ge=2)] = 20
    volatility_window: Annotated[int, Field(ge=2)] = 20
    clip: Positive = 10.0
    """Scaled values are clipped to +- this."""


class LabelsConfig(Model):
    """Fall / Stationary / Rise labels (FI-2010; DeepLOB methods 1 and 2)."""

    kind: Literal["forward", "smoothed"] = "forward"
    horizon_bars: PositiveInt = 20
    """k: the label of bar t is known at the close of bar t + k."""
    delta: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Threshold on |l_t|; `auto` is `auto_quantile` of |l_t| on the model's own training rows."""
    auto_quantile: Annotated[float, Field(gt=0, lt=1)] = 1 / 3


class SplitsConfig(Model):
    """Chronological shares; test is the rest."""

    train_frac: Annotated[float, Field(gt=0, lt=1)] = 0.6
    validation_frac: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> SplitsConfig:
        if self.train_frac + self.validation_frac >= 1:
            raise ValueError(
                f"train_frac + validation_frac = {self.train_frac} + {self.validation_frac} leaves no test part; "
                "their sum must be below 1"
            )
        return self


class ClassifiersConfig(Model):
    """The recurrent classifiers and how they are fitted."""

    members: tuple[Member, ...] = ("lstm", "gru", "bilstm", "dlstm")
    lookback_bars: Annotated[int, Field(ge=2)] = 60
    layers: PositiveInt = 3
    units: PositiveInt = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
    trend_kernel: Annotated[int, Field(ge=2)] = 25
    """DLSTM: bars of the moving average that splits trend from remainder (DLinear's 25)."""
    folds: PositiveInt = 4
    """Consecutive out-of-fold parts after the first training block."""
    epochs: PositiveInt = 150
    """Most epochs of the first fit and of the fit on the whole training part."""
    fold_epochs: PositiveInt = 20
    """Most epochs of each warm-started refit between folds."""
    patience_epochs: PositiveInt = 10
    early_stop_frac: Annotated[float, Field(gt=0, lt=0.5)] = 0.15
    """Last share of the model's own training rows, purged by k, that decides the epoch."""
    batch_size: PositiveInt = 1024
    accumulation_steps: PositiveInt = 1
    window_stride: PositiveInt = 1
    """Train on every n-th window; predictions are made for every bar."""
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    max_grad_norm: Positive = 1.0
    class_weights: bool = True
    amp: bool = True
    """Mixed precision on a GPU: bf16 from Ampere on, fp16 with a scaler before; never on a CPU."""

    @model_validator(mode="after")
    def _members_differ(self) -> ClassifiersConfig:
        if not self.members or len(set(self.members)) != len(self.members):
            raise ValueError(f"members must be one or more different names, got {list(self.members)}")
        return self


class EnsembleConfig(Model):
    """Soft vote of fixed members, never chosen by score."""

    members: tuple[Member, ...] = ("dlstm", "bilstm")


class EnvConfig(Model):
    """The account and its episodes."""

    initial_equity: Positive = 10_000.0
    episode_bars: Annotated[int, Field(ge=2)] = 2_000
    min_cash_frac: Fraction = 0.001
    """Buying is legal while cash is at least this share of equity, and no order leaves a position worth less."""
    maintenance_frac: Annotated[float, Field(gt=0, lt=1)] = 0.05
    equity_floor_frac: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """A liquidated account is floored at this share of its initial equity."""
    observation_clip: Positive = 10.0
    weight_clip: Positive = 2.0
    cash_clip: Positive = 3.0
    holding_scale_bars: PositiveInt = 100
    reward_scale: Positive = 100.0
    """The learner sees clip(reward_scale x log return + shaping, +- reward_clip)."""
    reward_clip: Positive = 10.0
    shaping: Literal["none", "drawdown", "differential_sharpe"] = "none"
    shaping_scale: Annotated[float, Field(ge=0)] = 0.1
    differential_sharpe_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Adaptation rate eta of Moody & Saffell's moments."""


class AgentConfig(Model):
    """Who trains, and how often."""

    backend: Literal["builtin", "sb3"] = "builtin"
    """`sb3` trains the same job with sb3-contrib's MaskablePPO."""
    seeds: PositiveInt = 3


class PPOConfig(Model):
    """One PPO learner (Schulman et al. 2017, arXiv:1707.06347)."""

    hidden: tuple[PositiveInt, ...] = (1280, 640)
    """Units of the hidden layers of the separate policy and value nets."""
    num_envs: PositiveInt = 16
    rollout_steps: Annotated[int, Field(ge=2)] = 64
    """Steps per environment per update; one update sees num_envs x rollout_steps samples."""
    minibatch_size: Annotated[int, Field(ge=2)] = 1024
    epochs: PositiveInt = 20
    timesteps: PositiveInt = 150_000
    learning_rate: Positive = 3e-4
    learning_rate_final: Annotated[float, Field(ge=0)] = 3e-4
    """Linear schedule from `learning_rate` to this over `timesteps`."""
    discount: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    clip_range: Positive = 0.2
    entropy_coef: Annotated[float, Field(ge=0)] = 0.005
    value_coef: Annotated[float, Field(ge=0)] = 0.5
    max_grad_norm: Positive = 0.5
    target_kl: Annotated[float, Field(ge=0)] = 0.0
    """Stop an update's epochs when the approximate KL passes 1.5 x this; 0 never stops."""
    eval_every_steps: PositiveInt = 5_000
    eval_slices: PositiveInt = 5
    """Disjoint slices of the validation part; their mean decides the best policy."""
    checkpoint_every_steps: PositiveInt = 25_000

    @model_validator(mode="after")
    def _minibatches_fill_the_rollout(self) -> PPOConfig:
        samples = self.num_envs * self.rollout_steps
        if samples % self.minibatch_size:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} does not divide "
                f"num_envs * rollout_steps = {self.num_envs} * {self.rollout_steps} = {samples}"
            )
        return self


class SyntheticConfig(Model):
    """Generated stress worlds: Merton jumps on GARCH(1,1) volatility in Markov regimes."""

    parameters: Literal["fitted", "preset"] = "fitted"
    """`fitted` to the bars before both the end of the training part and those that select the first walk-forward agent;
    `preset` takes the values in `training.synthetic.PRESET`."""
    scenarios: PositiveInt = 500
    bars: Annotated[int, Field(ge=500)] = 10_000
    """Of each scenario."""
    path_steps: Annotated[int, Field(ge=2)] = 4
    """Price moves inside one bar; high and low are the extremes of this path."""
    scripted_frac: Fraction = 0.2
    """Share of the scenarios that carry one of the named crash scripts."""


class PretrainConfig(Model):
    """PPO on the synthetic scenarios, with the settings of `ppo` and the zero vector for predictions."""

    timesteps: PositiveInt = 500_000
    replay: Literal["uniform", "prioritised"] = "uniform"
    """How episodes are drawn over start windows; `prioritised` is level replay (Jiang et al. 2021,
    arXiv:2010.03934)."""
    window_bars: Annotated[int, Field(ge=50)] = 500
    """Length of one start window: the level of level replay."""
    score_temperature: Positive = 0.1
    """beta: a window of rank r is drawn with weight (1 / r)^(1 / beta)."""
    staleness_coef: Fraction = 0.1
    """rho: share of the replays that follow staleness instead of the score."""
    replay_frac: Fraction = 0.5
    """Share of the draws that go back to a visited window; the others go to windows never visited, while there are
    any (P_D of the paper's algorithm 1). 0 visits all windows once before it replays any."""


class LstmPPOConfig(PPOConfig):
    """PPO with an LSTM core; whole sequences of `rollout_steps` go through the nets."""

    memory_units: PositiveInt = 256
    """Units of the actor's and of the critic's LSTM, below the layers of `hidden`."""

    @model_validator(mode="after")
    def _minibatches_hold_whole_sequences(self) -> LstmPPOConfig:
        if self.minibatch_size % self.rollout_steps:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} must be a multiple of rollout_steps={self.rollout_steps}: "
                "a minibatch holds whole sequences"
            )
        return self


class MultiAssetConfig(PPOConfig):
    """PPO on a portfolio of K assets and cash: continuous target weights by a diagonal Gaussian."""

    assets: tuple[str, ...] = ()
    """Symbols such as BTC-USDT, all of one quote currency; empty means the dataset's own alone."""
    gross_limit: Positive = 1.0
    """Most that the absolute weights add up to."""
    asset_cap: Positive = 1.0
    """Largest absolute weight of one asset."""
    allow_short: bool = True
    rebalance_threshold: Fraction = 0.2
    """A leg is traded only where its target differs from the drifted weight by more than this share of the largest
    equal weight, min(asset_cap, gross_limit / K). Limits know no threshold."""
    initial_deviation: Positive = 0.1
    """Standard deviation of the policy's raw action before training. Much more trades every leg on every bar, and then
    costs are all that is learned from: on three coins the largest drawdown of the validation part was 87 to 94 % with
    0.6 and 2 to 7 % with 0.1 and smaller steps, and planted edges are found as well."""

    @model_validator(mode="after")
    def _assets_are_symbols_of_one_quote(self) -> MultiAssetConfig:
        pairs = [asset.split("-") for asset in self.assets]
        if any(len(pair) != 2 or not all(pair) for pair in pairs) or len(set(self.assets)) != len(self.assets):
            raise ValueError(f"expected different symbols such as [BTC-USDT, ETH-USDT], got {list(self.assets)}")
        quotes = sorted({quote for _, quote in pairs})
        if len(quotes) > 1:
            raise ValueError(
                f"the assets have quotes {', '.join(quotes)}; one account holds one currency, so give assets of one "
                "quote"
            )
        return self


class WalkForwardConfig(Model):
    """Agents trained on some months and judged on the next, window by window, by full calendar months.

    Month m is predicted by classifiers fitted on the `train_months` before it, so an agent that trains on
    `train_months` sees out-of-sample predictions only: N windows need N + 2 x `train_months` full months.
    """

    windows: Annotated[int, Field(ge=0)] = 12
    """Most test months, the last of the data; as many as fit are taken, and resolving stores their number. 0 leaves
    the stage out."""
    first_test_month: Annotated[str, Field(pattern=r"^(\d{4}-(0[1-9]|1[0-2]))?$")] = ""
    """`YYYY-MM`; resolving stores it."""
    train_months: PositiveInt = 6
    scheme: Literal["rolling", "expanding"] = "rolling"
    """`expanding` agents train on every predicted month before the test month."""
    start: Literal["pretrained", "chain", "scratch"] = "pretrained"
    """Weights an agent starts from: those of pre-training, of the window before, or fresh ones."""
    timesteps: PositiveInt = 100_000
    """Of each agent of each window; all else is as in `ppo`."""
    epochs: PositiveInt = 3
    """Most of each classifier of each month, warm-started from the month before; the first month's have
    `classifiers.epochs`. Patience ends none before its third."""
    early_stop_frac: Annotated[float, Field(gt=0, lt=0.5)] = 0.15
    """Last share of a window's own training range that selects the agent."""
    smoke: bool = False
    """Allows fewer steps and epochs than a result needs; for tests."""

    @model_validator(mode="after")
    def _trains_enough(self) -> WalkForwardConfig:
        if not self.smoke and (self.timesteps < MIN_WINDOW_STEPS or self.epochs < MIN_WINDOW_EPOCHS):
            raise ValueError(
                f"timesteps={self.timesteps} and epochs={self.epochs} must be at least {MIN_WINDOW_STEPS:,} and "
                f"{MIN_WINDOW_EPOCHS}; walk_forward.smoke=true allows less, for tests"
            )
        return self


class AblationConfig(Model):
    """Agents with against without pre-training, on the same windows."""

    seeds: Annotated[int, Field(ge=2)] = 5
    windows: PositiveInt = 4
    """Walk-forward windows, spread evenly over those of the run."""
    crash_scenarios: PositiveInt = 20
    """Held-out scripted scenarios, of indices that pre-training never sees."""


class GateConfig(Model):
    """What one stage must have shown before another starts."""

    stage: GatedStage
    """The stage that is asked."""
    metric: GateMetric = "validation_sharpe"
    """`validation_sharpe`: annual, mean over the seeds; `done`: the stage has finished."""
    at_least: float = 0.0
    """The gate closes only where the upper bound of the metric's interval is below this."""
    on_fail: Literal["skip", "stop", "continue"] = "skip"
    """`skip` leaves the stage out, `stop` it and every later one but the evaluation, `continue` only says so."""


class JudgingConfig(Model):
    """How an agent is judged on the test part."""

    min_seeds: PositiveInt = 3
    """Fewer seeds are shown, but never called an edge."""
    random_shifts: PositiveInt = 1_000
    bootstrap_samples: PositiveInt = 2_000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    moving_average_bars: tuple[PositiveInt, PositiveInt] = (20, 50)
    cost_sweep_bps: tuple[Annotated[float, Field(ge=0)], ...] = (0, 5, 10, 25)
    collapse_position_changes: PositiveInt = 10
    collapse_weight_frac: Fraction = 0.99
    deflated_sharpe_threshold: Fraction = 0.95
    detection_power: Annotated[float, Field(gt=0, lt=1)] = 0.8


class ComputeConfig(Model):
    """What the numbers are computed with; results are bit-equal only where these are equal."""

    device: Literal["cpu", "cuda"]
    """Chosen when the configuration is resolved: `cuda` where a GPU is found, else `cpu`."""
    threads_per_unit: PositiveInt = 1


class RuntimeConfig(Model):
    """How the units are scheduled; no result depends on it, save on `batch_halvings`."""

    workers: PositiveInt = 2
    """Units side by side; those that use a GPU have one each, at most."""
    unit_timeout_s: Positive = 86_400
    stall_timeout_s: Positive = 3_600
    """A unit without any event for this long is stopped."""
    stop_grace_s: Positive = 30
    """From a stop request to the end of the program: units reach a safe boundary and save, the store gets the rest."""
    max_attempts: PositiveInt = 2
    max_fruitless_starts: PositiveInt = 5
    """Starts of a run in a row without any progress before it is given up."""
    mean_time_between_failures_s: Positive = 10_800
    """Expected life of the machine; with the measured cost of one checkpoint it decides how often to save."""
    calibrate_s: Annotated[float, Field(ge=0)] = 1
    """Seconds of measuring, per piece of work, before time and cost are predicted; two minutes at most in all. 0
    measures nothing, and a run starts without a prediction unless it has a limit to keep."""
    batch_halvings: dict[str, Annotated[int, Field(ge=1, le=3)]] = {}
    """Unit -> how often its batch was halved after it ran out of memory; written by the supervisor, part of that
    unit's cache key."""
    sample_resources_every_s: Positive = 2


class PreflightConfig(Model):
    """What the machine must have."""

    min_disk_bytes: PositiveInt = 10_000_000_000
    min_memory_bytes: PositiveInt = 8_000_000_000
    min_cpu_cores: Positive = 2
    min_gpu_memory_bytes: PositiveInt = 6_000_000_000
    min_shm_bytes: PositiveInt = 64_000_000
    max_clock_skew_s: Positive = 60
    require_gpu: bool = False
    check_timeout_s: Positive = 30
    """Limit of each check, except the two below."""
    gpu_timeout_s: Positive = 120
    """The GPU probe starts torch in a process of its own."""
    dataset_timeout_s: Positive = 600
    """The dataset check reads the whole file in a process of its own."""
    probe_url: str = "https://www.cloudflare.com/"
    """Answers one HEAD request each of the network and the clock check."""


class StoreConfig(Model):
    """The object store that outlives the machine."""

    url: str = ""
    """`s3://bucket/prefix`, `gs://bucket/prefix` or `file:///path`; empty keeps everything local. Credentials and
    endpoints come from the SDKs' own environment variables and files, never from here."""
    lease_s: Positive = 60
    """A run whose owner has not renewed for this long, by the store's clock, may be taken over."""
    final_upload_s: Positive = 600
    """Longest wait for the last upload of a run that ended by itself; a stopped one has `runtime.stop_grace_s`."""
    min_interval_s: Annotated[float, Field(ge=0)] = 15
    """Least time between two snapshots while units run."""
    live_every_s: Annotated[float, Field(ge=0)] = 15
    """How often the store is told what the run looks like, for who follows it from afar; 0 is never."""
    keep_last: Annotated[int, Field(ge=2)] = 3
    """Newest snapshots that are kept."""
    keep_every: PositiveInt = 20
    """Every n-th snapshot is kept too."""


class BudgetConfig(Model):
    """What the run may cost, over all its starts on all machines."""

    price_usd_per_hour: Annotated[float, Field(ge=0)] = 0.0
    max_cost_usd: Annotated[float, Field(ge=0)] = 0.0
    """0 is no limit; `--max-cost` itself takes only what is one."""
    max_hours: Annotated[float, Field(ge=0)] = 0.0
    """0 is no limit; `--max-hours` itself takes only what is one."""
    warn_frac: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of a limit at which a notification is sent."""

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self.max_cost_usd or self.max_hours)

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> BudgetConfig:
        if self.max_cost_usd and not self.price_usd_per_hour:
            raise ValueError(
                f"max_cost_usd={self.max_cost_usd:g} needs to know what this machine costs: "
                "give --price USD_PER_HOUR (budget.price_usd_per_hour)"
            )
        return self


class PublishConfig(Model):
    """The git branch that gets report, metrics, configuration and small weights."""

    git_url: str = ""
    """`https://host/repo.git`, `ssh://git@host/repo.git`, `git@host:repo.git` or `file:///path/repo.git`, never with
    a password or token in it; empty publishes nothing."""
    branch: str = "runs"
    max_file_bytes: PositiveInt = 50_000_000
    """Larger files go by Git LFS where the branch is set up for it, else stay in the store behind a pointer file."""

    @field_validator("git_url")
    @classmethod
    def _url_names_no_credentials(cls, url: str) -> str:
        if re.match(r"https?://([^/]*@|.*[?#])|(\w+://)?[^/@]*:[^/@]*@", url):
            raise ValueError(
                "must hold no user, password, token or query, for it is written to files and logs; give the token in "
                "SEQUENCE_GIT_TOKEN (its user in SEQUENCE_GIT_USER), or use a credential helper"
            )
        if url and not GIT_URL.fullmatch(url):
            raise ValueError(
                "expected https://host/repo.git, ssh://git@host/repo.git, git@host:repo.git or file:///path/repo.git"
            )
        return url

    @field_validator("branch")
    @classmethod
    def _branch_is_a_name_git_takes(cls, branch: str) -> str:
        if not BRANCH.fullmatch(branch):
            raise ValueError("expected letters, digits, '.', '_', '-' and '/', for example runs or team/runs")
        return branch


class Config(Model):
    """The fully resolved configuration of one run."""

    profile: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Root of every random stream; each unit and environment derives its own by name."""
    dataset: DatasetConfig
    market: MarketConfig
    costs: CostsConfig
    features: FeaturesConfig
    labels: LabelsConfig = LabelsConfig()
    splits: SplitsConfig = SplitsConfig()
    classifiers: ClassifiersConfig = ClassifiersConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    env: EnvConfig = EnvConfig()
    agent: AgentConfig = AgentConfig()
    ppo: PPOConfig = PPOConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    pretrain: PretrainConfig = PretrainConfig()
    lstm_ppo: LstmPPOConfig = LstmPPOConfig()
    multi_asset: MultiAssetConfig = MultiAssetConfig()
    walk_forward: WalkForwardConfig = WalkForwardConfig()
    ablation: AblationConfig = AblationConfig()
    gates: dict[GatedStage, tuple[GateConfig, ...]] = {}
    """Stage -> what it waits for; all of it must hold."""
    parallel_models: bool = False
    """Start the base, LSTM and multi-asset agents side by side; gates are shown, and hold nothing back. No unit's
    results depend on it, but which units there are, and so the verdict."""
    judging: JudgingConfig = JudgingConfig()
    compute: ComputeConfig
    runtime: RuntimeConfig = RuntimeConfig()
    preflight: PreflightConfig = PreflightConfig()
    store: StoreConfig = StoreConfig()
    budget: BudgetConfig = BudgetConfig()
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="after")
    def _ensemble_members_are_trained(self) -> Config:
        missing = [name for name in self.ensemble.members if name not in self.classifiers.members]
        if missing or not self.ensemble.members:
            raise ValueError(
                f"ensemble.members={list(self.ensemble.members)} must be one or more of "
                f"classifiers.members={list(self.classifiers.members)}"
            )
        return self

    @model_validator(mode="after")
    def _assets_belong_to_the_dataset(self) -> Config:
        assets, quote = self.multi_asset.assets, DatasetName.parse(self.dataset.name).quote
        others = [asset for asset in assets if asset.split("-")[1] != quote]
        if others:
            raise ValueError(
                f"multi_asset.assets={list(assets)} are not quoted in {quote} like the dataset {self.dataset.name}; "
                "one account holds one currency"
            )
        if assets and DatasetName.parse(self.dataset.name).symbol not in assets:
            raise ValueError(
                f"multi_asset.assets={list(assets)} must hold the dataset's own symbol "
                f"{DatasetName.parse(self.dataset.name).symbol}; add it, or leave the list empty for it alone"
            )
        return self

    @model_validator(mode="after")
    def _one_order_cannot_cost_all(self) -> Config:
        costs, limit = self.costs, self.multi_asset.gross_limit
        swept = max(self.judging.cost_sweep_bps, default=0.0) / 10_000
        worst = limit * max((1 + costs.slippage_frac) * (1 + costs.fee_frac) - 1, swept)
        if worst >= 1:
            raise ValueError(
                f"multi_asset.gross_limit={limit:g} with costs.fee_frac={costs.fee_frac:g}, "
                f"costs.slippage_frac={costs.slippage_frac:g} and judging.cost_sweep_bps up to {swept * 10_000:g} lets "
                f"one order cost {worst:.0%} of the equity; choose a smaller limit"
            )
        return self

    @model_validator(mode="after")
    def _gates_ask_earlier_stages(self) -> Config:
        order = get_args(GatedStage)
        for stage, gates in self.gates.items():
            for gate in gates:
                if order.index(gate.stage) >= order.index(stage):
                    raise ValueError(
                        f"gates.{stage} asks stage {gate.stage!r}, which is not before it; the order is "
                        f"{', '.join(order)}"
                    )
        return self

    def asset_datasets(self) -> tuple[str, ...]:
        """Names of the datasets of the portfolio, the run's own first."""
        own = DatasetName.parse(self.dataset.name)
        others = (symbol for symbol in self.multi_asset.assets if symbol != own.symbol)
        return (self.dataset.name, *(symbol + self.dataset.name.removeprefix(own.symbol) for symbol in others))

    def identity(self) -> dict:
        """The part of the configuration that decides results, as plain JSON values."""
        return self.model_dump(mode="json", exclude=set(OPERATIONAL_SECTIONS))
