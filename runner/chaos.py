"""Chaos: kill a small run again and again, let it go on, and compare every byte with a run that was left alone.

The pipeline visits every stage. Two undisturbed runs come first, one unit by unit
without a store and one as the trials run: they prove that the comparison means
something, and give the timeline on which the kills are drawn.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from configs.errors import ProjectError
from configs.events import read_events
from configs.run_dir import RunDir
from runner.guard import die_with_parent
from runner.identity import PROJECT_ROOT
from runner.strikes import LAUNCH, REPORT, Aim, Hit, Point, Striker, Target

DATASET = "DEMO-USD_1H_20230101-20230430"
SETTINGS = (
    "classifiers.members=[gru,dlstm]",
    "ensemble.members=[dlstm]",
    "classifiers.lookback_bars=8",
    "classifiers.layers=2",
    "classifiers.units=8",
    "classifiers.dropout=0.25",
    "classifiers.folds=2",
    "classifiers.epochs=6",
    "classifiers.fold_epochs=3",
    "classifiers.window_stride=4",
    "ppo.timesteps=65536",
    "ppo.eval_every_steps=16384",
    "ppo.checkpoint_every_steps=16384",
    "agent.seeds=1",
    "judging.random_shifts=100",
    "judging.bootstrap_samples=200",
    "synthetic.scenarios=4",
    "synthetic.bars=600",
    "pretrain.timesteps=16384",
    "multi_asset.timesteps=16384",
    "multi_asset.eval_every_steps=8192",
    "multi_asset.checkpoint_every_steps=8192",
    "lstm_ppo.timesteps=16384",
    "lstm_ppo.eval_every_steps=8192",
    "lstm_ppo.checkpoint_every_steps=8192",
    "lstm_ppo.memory_units=16",
    "walk_forward.smoke=true",
    "walk_forward.train_months=1",
    "walk_forward.windows=2",
    "walk_forward.timesteps=16384",
    "walk_forward.epochs=1",
    # operational: save and upload often enough for a run of seconds to be caught at it
    "runtime.mean_time_between_failures_s=1",
    "store.min_interval_s=0.2",
    "runtime.calibrate_s=0",
)
TARGETS: tuple[Target, ...] = ("supervisor", "stage", "everything")
DRAWN_AIMS: tuple[Aim, ...] = ("time", "save", "upload")
RESTORES_KILLED = 0.3
"""Share of the restores from a store that are killed too."""
KILLS, KILL_WEIGHTS = (1, 2, 3), (60, 25, 15)
"""Kills in one trial, and how often each number is drawn."""
MOST_PASSED: dict[Aim, int] = {"time": 0, "save": 4, "upload": 12, "restore": 12}
"""Files that are let pass at most before the kill."""
FROM_STORE = "from store"
MAX_STARTS = 8
DIFFERENCES_SHOWN = 5


class ChaosError(ProjectError):
    """The undisturbed run fails or does not repeat itself, so there is nothing to compare with."""


@dataclass(frozen=True)
class Setup:
    """What is run, and where."""

    folder: Path
    """Everything of this chaos lies below."""
    dataset: str = DATASET
    settings: tuple[str, ...] = SETTINGS
    data_dirs: tuple[Path, ...] = ()
    store: str = ""
    """URL below which every run gets a prefix of its own; empty: no store."""


@dataclass(frozen=True)
class Outcome:
    """What a run computed, in a form that two runs can be compared by."""

    results: dict[str, bytes]
    """Unit -> its `result.json`, which holds the digests of its outputs."""
    metrics: dict[str, frozenset[str]]
    """Unit -> its metric events without their times. A step that was done twice must have said the same twice, or the
    set has one element too many."""
    damaged: tuple[str, ...] = ()
    """Outputs that are not what their result says."""

    @classmethod
    def of(cls, run: RunDir) -> Outcome:
        """Read a finished run."""
        units = [path.parent.relative_to(run.stages).as_posix() for path in sorted(run.stages.rglob("result.json"))]
        metrics: dict[str, set[str]] = {}
        for event in read_events(run.events):
            if event["kind"] == "metric":
                said = {name: value for name, value in event.items() if name != "t"}
                metrics.setdefault(event["unit"], set()).add(json.dumps(said, sort_keys=True))
        results = {unit: run.result(unit) for unit in units}
        return cls(
            {unit: (run.unit_dir(unit) / "result.json").read_bytes() for unit in units},
            {unit: frozenset(said) for unit, said in metrics.items()},
            tuple(
                f"{unit}/{name}" for unit, result in results.items() if result for name in run.damaged_outputs(result)
            ),
        )

    def differences(self, other: Outcome) -> list[str]:
        """What `other` has otherwise than this one; empty when the two are equal."""
        found = [f"{name} is damaged" for name in other.damaged]
        for unit in sorted(self.results.keys() | other.results.keys()):
            if self.results.get(unit) != other.results.get(unit):
                found.append(f"{unit}/result.json differs or is missing")
        for unit in sorted(self.metrics.keys() | other.metrics.keys()):
            here, there = self.metrics.get(unit, frozenset()), other.metrics.get(unit, frozenset())
            if here != there:
                found.append(f"{unit}: {len(here - there)} metric events missing, {len(there - here)} others instead")
        return found


@dataclass(frozen=True)
class Span:
    """One piece of the undisturbed run, in seconds from its launch."""

    unit: str
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Reference:
    """The undisturbed run."""

    run_id: str
    outcome: Outcome
    timeline: tuple[Span, ...]
    wall_s: float


@dataclass(frozen=True)
class Trial:
    """What is to be done to one run."""

    number: int
    from_store: bool
    """Go on in an empty directory with nothing but the store, else where the run lies."""
    points: tuple[Point, ...]


@dataclass
class Verdict:
    """How a trial ended."""

    trial: Trial
    hits: list[Hit] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    """Of each start; a killed one has -9."""
    differences: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    kept: str = ""
    """Where the run of a failed trial lies."""

    @property
    def equal(self) -> bool:
        """The run ended well, with the bytes of the undisturbed one."""
        return not self.differences

    @property
    def resumed(self) -> str:
        """How it went on."""
        if len(self.exit_codes) < 2:
            return "by its supervisor"
        return FROM_STORE if self.trial.from_store else "in place"

    def to_json(self) -> dict:
        """Plain values."""
        return {
            "trial": self.trial.number,
            "killed": [hit.target for hit in self.hits],
            "moments": [str(hit) for hit in self.hits],
            "resumed": self.resumed,
            "exit_codes": self.exit_codes,
            "wall_s": round(self.wall_s, 1),
            "equal": self.equal,
            "differences": self.differences,
            "kept": self.kept,
        }


def reference(setup: Setup) -> Reference:
    """Run undisturbed twice: unit by unit without a store, then as the trials do.

    Raises:
        ChaosError: a run failed, or the two differ.
    """
    outcomes: list[Outcome] = []
    alone = replace(setup, settings=(*setup.settings, "runtime.workers=1"), store="")
    for name, how in (("reference-1", alone), ("reference-2", setup)):
        launcher = Launcher(how, name, how.store)
        started_s, started_t = time.monotonic(), time.time()
        with launcher.start() as process:
            code = process.wait()
        wall_s = time.monotonic() - started_s
        if code:
            raise ChaosError(f"the undisturbed run ended with exit code {code}; see {launcher.log}")
        outcomes.append(Outcome.of(launcher.run))
    if differences := outcomes[0].differences(outcomes[1]):
        raise ChaosError("two undisturbed runs differ: " + "; ".join(differences[:DIFFERENCES_SHOWN]))
    timeline = tuple(_spans(launcher.run, started_t, wall_s))
    return Reference(launcher.run.run_id, outcomes[0], timeline, wall_s)


def plan_trials(count: int, seed: int, known: Reference, store: bool) -> Iterator[Trial]:
    """Trials whose first kills are spread evenly over the timeline, and whose kinds take turns.

    Args:
        count: how many.
        seed: equal seeds draw equal trials from equal timelines.
        known: gives the timeline.
        store: the first run and every second after it go on from the store alone.
    """
    random = Random(seed)
    aims = DRAWN_AIMS if store else DRAWN_AIMS[:2]
    kinds: list[tuple[Aim, Target]] = [(aim, target) for aim in aims for target in TARGETS]
    turns: list[tuple[Aim, Target]] = []
    while len(turns) < count:
        turns += random.sample(kinds, len(kinds))
    shares = random.sample([(number + random.random()) / count for number in range(count)], count)
    for number, ((aim, target), share) in enumerate(zip(turns, shares, strict=False), start=1):
        from_store = store and number % 2 == 1
        more = random.choices(KILLS, KILL_WEIGHTS)[0] - 1
        killed = [(aim, target), *random.choices(kinds, k=more)]
        if from_store and killed[-1][1] == "stage":  # a stage alone is no lost machine
            killed.append((random.choice(aims), "everything"))
        if from_store and random.random() < RESTORES_KILLED:
            killed.append(("restore", random.choice(("supervisor", "everything"))))
        moments = sorted([share, *(random.uniform(share, 1.0) for _ in killed[1:])])
        points = (
            _point(known, moment * known.wall_s, *kind, random) for moment, kind in zip(moments, killed, strict=True)
        )
        yield Trial(number, from_store, tuple(points))


def carry_out(trial: Trial, setup: Setup, known: Reference) -> Verdict:
    """Do one trial; its directory is kept only when it failed.

    A run that was over before a kill came is done again with an earlier one.
    """
    name = f"trial-{trial.number:03d}"
    while True:
        launcher = Launcher(setup, name, f"{setup.store}/{name}" if setup.store else "", known.run_id)
        verdict = _carry_out(trial, launcher, known)
        if not verdict.equal:
            verdict.kept = str(launcher.folder)
            return verdict
        launcher.clear()
        if verdict.hits and (verdict.resumed == FROM_STORE or not trial.from_store):
            return verdict
        first = trial.points[0]
        earlier = replace(first, aim="time", target="everything", after_s=first.after_s / 2)
        trial = replace(trial, points=(earlier,))


def _carry_out(trial: Trial, launcher: Launcher, known: Reference) -> Verdict:
    verdict, started_s = Verdict(trial), time.monotonic()
    points = list(trial.points)
    while verdict.exit_codes[-1:] != [0] and len(verdict.exit_codes) < MAX_STARTS:
        with launcher.start(from_store=trial.from_store) as process:
            striker = Striker(process, launcher.run, _directory(launcher.store))
            while points and process.poll() is None:
                hit = striker.strike(points.pop(0))
                if hit:
                    verdict.hits.append(hit)
            verdict.exit_codes.append(process.wait())
    verdict.wall_s = time.monotonic() - started_s
    if verdict.exit_codes[-1]:
        verdict.differences = [f"it never ended well: exit codes {verdict.exit_codes}"]
    else:
        verdict.differences = known.outcome.differences(Outcome.of(launcher.run))
    return verdict


class Launcher:
    """Starts one run, again and again, where it lies or in an empty directory."""

    def __init__(self, setup: Setup, name: str, store: str, run_id: str = "") -> None:
        """Nothing is started yet; the run's files go below `setup.folder / name`."""
        self.folder, self.store = setup.folder / name, store
        self.log = self.folder / "log"
        self._setup, self._run_id, self._places = setup, run_id, 0

    @property
    def run(self) -> RunDir:
        """The run as it lies now; its id is known when it was given, or when the run has begun."""
        runs_dir = self._runs_dir
        return RunDir(runs_dir / self._run_id if self._run_id else next(runs_dir.glob("*/run.json")).parent)

    @contextmanager
    def start(self, from_store: bool = False) -> Iterator[subprocess.Popen]:
        """A runner that is dead afterwards.

        Args:
            from_store: in an empty directory; what was there is as good as lost.
        """
        self._places += from_store or not self._places
        self._runs_dir.mkdir(parents=True, exist_ok=True)
        parent_pid = os.getpid()
        path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]))
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(os.environ) | {"PYTHONPATH": path},
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent_pid),
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def clear(self) -> None:
        """Remove the run and what it stored."""
        shutil.rmtree(self.folder)
        if self.store:
            from runner.store.open import open_store  # heavy: SDKs

            store = open_store(self.store)
            for stat in list(store.list()):
                store.delete(stat.key)

    @property
    def _runs_dir(self) -> Path:
        return self.folder / f"runs-{self._places}"

    def _command(self) -> list[str]:
        setup = self._setup
        what = ["--dataset", setup.dataset, *_repeated("--set", setup.settings)]
        if self._places > 1 and self._is_stored():
            what = ["--resume", self._run_id]
        return [
            *(sys.executable, "-m", "runner.cli", "run", "--json", "--skip-preflight", "--offline"),
            *("--runs-dir", str(self._runs_dir), *what, *_repeated("--data-dir", setup.data_dirs)),
            *(("--store", self.store) if self.store else ()),
        ]

    def _is_stored(self) -> bool:
        """The store has a snapshot: before the first, the run is begun anew by the command that began it."""
        from runner.store.lease import read_head
        from runner.store.open import open_store  # heavy: SDKs

        head = read_head(open_store(self.store), self._run_id)
        return head is not None and bool(head.snapshot)


def _point(known: Reference, moment_s: float, aim: Aim, target: Target, random: Random) -> Point:
    """The moment as seconds into a unit that ran then; what runs faster or slower is met all the same."""
    if aim == "restore":
        return Point(LAUNCH, 0.0, aim, target, random.randint(0, MOST_PASSED[aim]))
    begun = [span for span in known.timeline if span.begin_s <= moment_s]
    running = [span for span in begun if moment_s < span.end_s] or begun[-1:]
    span = random.choice(running)
    return Point(span.unit, moment_s - span.begin_s, aim, target, random.randint(0, MOST_PASSED[aim]))


def _spans(run: RunDir, launched_t: float, wall_s: float) -> list[Span]:
    begins: dict[str, float] = {LAUNCH: 0.0}
    ends: dict[str, float] = {}
    for event in read_events(run.events):
        at_s = event["t"] - launched_t
        if event["kind"] == "unit_started":
            begins[event["unit"]] = at_s
            ends.setdefault(LAUNCH, at_s)
        elif event["kind"] == "unit_finished":
            ends[event["unit"]] = at_s
        elif event["kind"] == "run_finished":
            begins[REPORT], ends[REPORT] = at_s, wall_s
    return sorted((Span(unit, begins[unit], ends[unit]) for unit in begins), key=lambda span: span.begin_s)


def _directory(store: str) -> Path | None:
    return Path(store.removeprefix("file://")) if store.startswith("file://") else None


def _repeated(option: str, values: tuple) -> list[str]:
    return [part for value in values for part in (option, str(value))]
