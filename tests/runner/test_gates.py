"""Gates: verdicts worked by hand, and what they do to a start with real processes."""

import pytest

from configs.errors import ConfigError, ExitCode
from configs.events import read_events
from configs.load import resolve
from configs.run_dir import Result
from runner.gates import Gates
from runner.graph import Unit
from runner.reuse import standing
from tests.runner.fixture_stages.world import World

pytestmark = pytest.mark.slow
SHARPE = "{stage: ppo, metric: validation_sharpe, at_least: 1.0, on_fail: %s}"


def configured(on_fail: str, *settings: str):
    gates = f"gates.lstm_ppo=[{SHARPE % on_fail}]"
    return resolve("DEMO-USD_1H", "quick", settings=("gates={}", gates, "gates.multi_asset=[]", *settings)).config


def units(*stages: str) -> list[Unit]:
    return [Unit(f"{stage}/seed-{seed}", stage, "m") for stage in stages for seed in range(2)]


def scored(*figures: tuple[float, float]) -> dict[str, Result]:
    metrics = [{"validation": {"sharpe": sharpe, "standard_error": error}} for sharpe, error in figures]
    names = [f"ppo/seed-{seed}" for seed in range(len(figures))]
    return {
        name: Result(unit=name, cache_key="k", outputs={}, metrics=of) for name, of in zip(names, metrics, strict=True)
    }


def verdict_on(*figures: tuple[float, float], on_fail: str = "skip", settings: tuple[str, ...] = ()):
    gates = Gates(configured(on_fail, *settings), units("ppo", "lstm_ppo"))
    (verdict,) = gates.decide(scored(*figures), ())
    return verdict


def test_the_mean_over_the_seeds_has_the_mean_of_their_standard_errors():
    verdict = verdict_on((0.0, 1.0), (1.0, 3.0))
    assert verdict.value == 0.5
    assert verdict.interval == pytest.approx((0.5 - 1.96 * 2, 0.5 + 1.96 * 2))


def test_a_gate_closes_only_where_the_upper_bound_is_below_the_target():
    assert verdict_on((-0.97, 1.0), (-0.97, 1.0)).verdict == "closed"
    undecided = verdict_on((-0.95, 1.0), (-0.95, 1.0))
    assert undecided.verdict == "open" and "cannot be decided" in undecided.says
    assert verdict_on((1.5, 0.1), (1.5, 0.1)).verdict == "open"


def test_a_miss_is_told_and_holds_nothing_back_where_it_shall_continue_or_all_models_run_side_by_side():
    low = ((-9.0, 1.0), (-9.0, 1.0))
    assert verdict_on(*low, on_fail="continue").verdict == "continued"
    assert verdict_on(*low, settings=("parallel_models=true",)).verdict == "continued"


@pytest.mark.parametrize(("on_fail", "holds"), [("skip", True), ("stop", True), ("continue", False)])
def test_a_stage_waits_for_its_verdict_unless_it_goes_on_anyway(on_fail, holds):
    graph = units("ppo", "lstm_ppo", "multi_asset")
    gates = Gates(configured(on_fail), graph)
    assert gates.lets_start(graph[2], {}, ()) is not holds
    assert gates.lets_start(graph[4], {}, ()) is (on_fail != "stop"), "a later stage waits for a gate that may stop it"
    gates.decide(scored((2.0, 0.1), (2.0, 0.1)), ())
    assert gates.lets_start(graph[2], {}, ()) and gates.lets_start(graph[4], {}, ())


@pytest.mark.parametrize(
    ("on_fail", "out"), [("skip", {"lstm_ppo"}), ("stop", {"lstm_ppo", "multi_asset"}), ("continue", set())]
)
def test_a_closed_gate_leaves_its_stage_out_and_one_that_stops_every_later_one_but_the_evaluation(on_fail, out):
    graph = units("ppo", "lstm_ppo", "multi_asset", "evaluate")
    gates = Gates(configured(on_fail), graph)
    gates.decide(scored((-9.0, 1.0), (-9.0, 1.0)), ())
    assert {unit.stage for unit in graph if gates.leaves_out(unit, ())} == out


def test_a_stage_that_a_gate_left_out_is_not_done():
    done = "{stage: lstm_ppo, metric: done}"
    config = resolve("DEMO-USD_1H", "quick", settings=("gates.lstm_ppo=[]", f"gates.multi_asset=[{done}]")).config
    graph = units("lstm_ppo", "multi_asset")
    (closed,) = Gates(config, graph).decide({}, ("lstm_ppo/seed-0", "lstm_ppo/seed-1"))
    results = {unit.id: Result(unit=unit.id, cache_key="k", outputs={}, metrics={}) for unit in graph[:2]}
    (opened,) = Gates(config, graph).decide(results, ())
    assert (closed.verdict, opened.verdict) == ("closed", "open")


def test_a_stage_that_nobody_chose_is_not_asked():
    graph = units("lstm_ppo", "evaluate")
    gates = Gates(configured("skip"), graph)
    assert gates.decide({}, ()) == [] and gates.lets_start(graph[0], {}, ())


@pytest.fixture
def world(tmp_path) -> World:
    gate = f"gates.lstm_ppo=[{SHARPE % 'skip'}]"
    world = World(tmp_path / "run", gate, "gates.multi_asset=[{stage: lstm_ppo, metric: done}]")
    world.needs = dict.fromkeys(("ppo/seed-0", "lstm_ppo/seed-0", "multi_asset/seed-0", "evaluate"), ())
    world.wants = {"evaluate": ("ppo/seed-0", "lstm_ppo/seed-0", "multi_asset/seed-0")}
    return world


LOW = {"metrics": {"validation": {"sharpe": -3.0, "standard_error": 0.5}}}


def finds(world: World, sharpe: float) -> None:
    world.plans(**{"ppo/seed-0": {"metrics": {"validation": {"sharpe": sharpe, "standard_error": 0.5}}}})


def told(world: World, kind: str) -> list[dict]:
    return [event for event in read_events(world.run.events) if event["kind"] == kind]


def test_a_run_with_a_closed_gate_ends_well_without_the_stages_behind_it(world):
    finds(world, -3.0)
    assert world.supervise().exit_code == ExitCode.DONE
    assert {(gate["stage"], gate["verdict"]) for gate in told(world, "gate")} == {
        ("lstm_ppo", "closed"), ("multi_asset", "closed"),
    }  # fmt: skip
    assert world.starts("seed-0") == 1, "of the agents the first alone"
    assert set(world.run.request("evaluate").inputs) == {"ppo/seed-0"}
    states = standing(world.run, world.units(), world.keys())
    assert list(states.values()) == ["done", "gated", "gated", "done"]
    assert {unit.state for unit in world.supervisor.view.units.values()} == {"done", "gated"}


def test_a_later_start_comes_to_the_same_verdicts(world):
    finds(world, -3.0)
    world.supervise()
    first = [{**gate, "t": 0} for gate in told(world, "gate")]
    assert world.supervise().exit_code == ExitCode.DONE
    assert [{**gate, "t": 0} for gate in told(world, "gate")] == first * 2
    assert world.starts("seed-0") == 1 and world.starts("evaluate") == 1


def test_a_part_of_the_run_comes_to_the_verdicts_of_the_whole(world):
    """The asked stage was not chosen and is done: it is asked all the same, and what it closed stays gated."""
    finds(world, -3.0)
    world.supervise()
    units, keys = world.units(), world.keys()
    others = {unit.id for unit in units} - {"evaluate"}
    assert standing(world.run, units, keys, optional=others) == standing(world.run, units, keys)
    assert standing(world.run, units, keys, optional={"ppo/seed-0"})["lstm_ppo/seed-0"] == "gated"


def test_nothing_is_told_of_a_gate_whose_stage_is_left_out(world):
    finds(world, 3.0)
    assert world.supervise(left_out={"lstm_ppo/seed-0", "multi_asset/seed-0"}).exit_code == ExitCode.DONE
    assert not told(world, "gate")


def test_a_gate_may_ask_the_pre_training_which_comes_first():
    asks = "gates.ppo=[{stage: pretrain, at_least: 1.0, on_fail: skip}]"
    graph = units("pretrain", "ppo")
    gates = Gates(resolve("DEMO-USD_1H", "quick", settings=("gates={}", asks)).config, graph)
    assert not gates.lets_start(graph[2], {}, ())
    with pytest.raises(ConfigError, match="is not before it"):
        resolve("DEMO-USD_1H", "quick", settings=("gates={}", "gates.pretrain=[{stage: ppo}]"))


def test_a_stage_of_which_a_part_is_left_out_is_not_asked(world):
    """Neither by the look before a start nor by the start: a mean over some of the seeds is another figure."""
    world.needs = {"ppo/seed-1": (), **world.needs}
    world.plans(**{f"ppo/seed-{seed}": LOW for seed in range(2)})
    assert world.supervise(left_out={"ppo/seed-1"}).exit_code == ExitCode.DONE
    assert world.starts("seed-0") == 3, "the agents of all three stages"
    states = standing(world.run, world.units(), world.keys(), optional={"ppo/seed-1"})
    assert states == {"ppo/seed-1": "left out"} | dict.fromkeys(list(world.needs)[1:], "done")


def test_a_gate_that_stops_stops_later_stages_where_its_own_is_no_part_of_the_start():
    graph = units("ppo", "multi_asset", "evaluate")
    gates = Gates(configured("stop"), graph)
    gates.decide(scored((-9.0, 1.0), (-9.0, 1.0)), ())
    assert {unit.stage for unit in graph if gates.leaves_out(unit, ())} == {"multi_asset"}


def test_an_open_gate_lets_everything_run(world):
    finds(world, 3.0)
    assert world.supervise().exit_code == ExitCode.DONE
    assert {gate["verdict"] for gate in told(world, "gate")} == {"open"}
    assert set(world.run.request("evaluate").inputs) == set(world.wants["evaluate"])
