"""The supervisor's order, played with seconds: by hand on small graphs, and what must hold on every one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.graph import Unit
from runner.schedule import Places, Span, in_turn, most_at_once, schedule, shares_s, wall_s


def graph(*names: str, gpu: bool = False) -> list[Unit]:
    return [Unit(name, name, "module", uses_gpu=gpu) for name in names]


def spans_of(seconds: dict[str, float], waits: dict[str, tuple[str, ...]], places: Places) -> dict[str, Span]:
    return schedule(graph(*seconds), seconds, waits, places)


DIAMOND = {"first": (), "second": ("first",), "third": ("first",), "last": ("second", "third")}
DIAMOND_S = {"first": 1.0, "second": 5.0, "third": 2.0, "last": 1.0}


def test_a_diamond_by_hand():
    two, one = (spans_of(DIAMOND_S, DIAMOND, Places(workers)) for workers in (2, 1))
    assert two == {"first": Span(0, 1), "second": Span(1, 6), "third": Span(1, 3), "last": Span(6, 7)}
    assert one == {"first": Span(0, 1), "second": Span(1, 6), "third": Span(6, 8), "last": Span(8, 9)}


def test_a_free_place_goes_to_the_first_unit_in_order_that_waits_for_nothing():
    spans = spans_of({"a": 3.0, "b": 1.0, "c": 1.0, "d": 4.0}, {"c": ("a",)}, Places(2))
    assert spans == {"a": Span(0, 3), "b": Span(0, 1), "d": Span(1, 5), "c": Span(3, 4)}


def test_units_on_a_gpu_have_one_each_and_others_go_beside_them():
    units = [*graph("x", "y", gpu=True), *graph("z")]
    seconds = dict.fromkeys("xyz", 2.0)
    assert schedule(units, seconds, {}, Places(2, gpus=1)) == {"x": Span(0, 2), "z": Span(0, 2), "y": Span(2, 4)}
    assert schedule(units, seconds, {}, Places(2, gpus=2)) == {"x": Span(0, 2), "y": Span(0, 2), "z": Span(2, 4)}


MODELS = [Unit(f"{stage}/{seed}", stage, "m") for stage in ("ppo", "lstm_ppo", "multi_asset") for seed in range(3)]


def test_stages_that_take_turns_run_side_by_side():
    seconds = dict.fromkeys((unit.id for unit in MODELS), 5.0)
    for turns, at_first in ((True, {"ppo/0", "lstm_ppo/0", "multi_asset/0"}), (False, {"ppo/0", "ppo/1", "ppo/2"})):
        spans = schedule(MODELS, seconds, {}, Places(3), turns)
        assert {name for name, span in spans.items() if span.begin_s == 0} == at_first
    two = schedule(MODELS, seconds, {}, Places(2), True)
    assert two["multi_asset/0"].begin_s == 5.0, "two at once: the third kind comes before another seed of the first"


def test_a_place_is_offered_to_the_stage_with_the_fewest_running_then_the_fewest_begun():
    order = [unit.id for unit in in_turn(MODELS[1::3], ["ppo"], ["ppo", "lstm_ppo"], True)]
    assert order == ["multi_asset/1", "lstm_ppo/1", "ppo/1"]


def test_who_waits_for_a_unit_that_is_not_there_does_not_wait():
    assert spans_of({"b": 2.0}, {"b": ("a",)}, Places(1)) == {"b": Span(0, 2)}


def test_shares_divide_each_moment_among_those_that_run_in_it():
    spans = spans_of(DIAMOND_S, DIAMOND, Places(2))
    assert shares_s(spans) == {"first": 1.0, "second": 4.0, "third": 1.0, "last": 1.0}


def test_the_most_at_once_is_of_one_moment():
    spans = {"a": Span(0, 3), "b": Span(0, 1), "c": Span(1, 4), "d": Span(4, 5)}
    assert most_at_once(spans, {"a": 1, "b": 7, "c": 4, "d": 6}) == 8


def test_nothing_takes_no_time():
    assert wall_s(schedule([], {}, {}, Places(2))) == 0 == most_at_once({}, {})


stages = st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=5), min_size=1, max_size=4)


def staged(widths: list[list[float]]) -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """Units in stages, each waiting for all of the stage before: no anomaly is possible."""
    names = [[f"{stage}/{number}" for number in range(len(own))] for stage, own in enumerate(widths)]
    seconds = {name: s for row, own in zip(names, widths, strict=True) for name, s in zip(row, own, strict=True)}
    waits = {name: tuple(before) for before, row in zip([[], *names], names, strict=False) for name in row}
    return seconds, waits


@settings(max_examples=60)
@given(stages, st.integers(1, 4), st.floats(1, 3))
def test_more_workers_and_shorter_units_never_end_stages_later(widths, workers, factor):
    seconds, waits = staged(widths)
    wall = wall_s(spans_of(seconds, waits, Places(workers)))
    longer = {name: s * factor if name.endswith("0") else s for name, s in seconds.items()}
    slack = 1e-9 * (1 + wall)
    assert wall_s(spans_of(seconds, waits, Places(workers + 1))) <= wall + slack
    assert wall <= wall_s(spans_of(longer, waits, Places(workers))) + slack


@settings(max_examples=60)
@given(stages, st.integers(1, 4))
def test_a_schedule_keeps_the_rules_and_its_shares_add_up(widths, workers):
    seconds, waits = staged(widths)
    spans = spans_of(seconds, waits, Places(workers))
    assert all(spans[name].begin_s >= spans[before].end_s for name in spans for before in waits[name])
    assert most_at_once(spans, dict.fromkeys(spans, 1)) <= workers
    assert sum(shares_s(spans).values()) == pytest.approx(wall_s(spans))
    assert sum(seconds.values()) / workers <= wall_s(spans) + 1e-6 <= sum(seconds.values()) + 2e-6
