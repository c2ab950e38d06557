"""The ledger of a run and the ceiling that it never passes."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configs.errors import ExitCode
from configs.load import resolve
from configs.schema import BudgetConfig
from runner.budget import Budget, BudgetError, amount_text, left_s, opening, spent, within
from runner.plan import Facts, Range, make_plan
from runner.preflight.budget import check_budget
from runner.store.layout import Spent

HOUR_S = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def write_events(directory, *lines: str, name: str = "supervisor"):
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return directory


def event(kind: str, t: float, **fields: float) -> str:
    more = "".join(f', "{name}": {value}' for name, value in fields.items())
    return f'{{"t": {t}, "unit": "run", "kind": "{kind}"{more}}}'


# -- the ledger


def test_a_run_that_never_started_has_spent_nothing(tmp_path):
    assert spent(tmp_path / "none") == Spent()


def test_each_start_counts_from_its_beginning_to_its_last_event_at_its_own_price(tmp_path):
    directory = write_events(
        tmp_path / "events",
        event("run_started", 1_000, price_usd_per_hour=3.6),
        event("resources", 1_100),  # killed here: no end
        event("run_started", 9_000, price_usd_per_hour=0.36),
        event("resources", 9_010),
        event("run_finished", 9_050, exit_code=75),
    )
    used = spent(directory)
    assert used.wall_s == pytest.approx(150)
    assert used.cost_usd == pytest.approx(100 * 0.001 + 50 * 0.0001)


def test_what_only_the_store_saw_is_added_once(tmp_path):
    first = [event("run_started", 0, price_usd_per_hour=3.6), event("resources", 100)]
    directory = write_events(tmp_path / "events", *first)
    ledger = spent(directory)
    fields = opening(3.6, ledger, known=Spent(wall_s=400, cost_usd=0.4))
    directory = write_events(directory, *first, event("run_started", 5_000, **fields), event("resources", 5_100))
    assert spent(directory).wall_s == pytest.approx(500)
    assert spent(directory).cost_usd == pytest.approx(0.5)
    again = opening(3.6, spent(directory), known=Spent(wall_s=400, cost_usd=0.4))
    assert again == {"price_usd_per_hour": 3.6, "unseen_wall_s": 0, "unseen_cost_usd": 0}


def test_a_clock_set_back_and_a_torn_line_take_nothing_off(tmp_path):
    lines = [event("run_started", 1_000), event("resources", 1_300), event("resources", 700), '{"t": 9999, "unit": "r']
    assert spent(write_events(tmp_path / "events", *lines)).wall_s == 300


def test_events_of_units_are_no_part_of_the_ledger(tmp_path):
    directory = write_events(tmp_path / "events", event("run_started", 0), event("resources", 10))
    write_events(directory, event("progress", 90_000), name="ppo.seed-0")
    assert spent(directory).wall_s == 10


# -- the ceiling


def budget(
    before: Spent, clock: Clock, grace_s: float = 30.0, heard: list[str] | None = None, **limits: float
) -> Budget:
    warn = heard.append if heard is not None else (lambda _says: None)
    return Budget(BudgetConfig(**limits), before, grace_s=grace_s, warn=warn, clock=clock)


amounts = st.floats(0.01, 50)


@given(
    limits=st.fixed_dictionaries({"max_hours": st.just(0.0) | amounts, "max_cost_usd": st.just(0.0) | amounts}),
    price=st.floats(0.05, 40),
    starts=st.lists(st.tuples(st.floats(0, 20), st.sampled_from([1.0, 5.0, 30.0, 120.0])), min_size=1, max_size=5),
    step_s=st.floats(0.05, 0.9),
)
def test_no_sequence_of_starts_ever_passes_a_limit(limits, price, starts, step_s):
    """Each start works until it ends by itself or is told to stop, then uses up its whole grace time."""
    assume(any(limits.values()))
    used, clock = Spent(), Clock()
    for works_h, grace_s in starts:
        one = budget(used, clock, grace_s, price_usd_per_hour=price, **limits)
        try:
            one.refuse_spent()
        except BudgetError:
            continue
        # the last looks before the limit are the ones that matter: jump to where nothing may happen yet
        end_s = clock.now_s + works_h * HOUR_S
        quiet_s = min(one.left_s() - grace_s - 2 - 10 * step_s, works_h * HOUR_S)
        if quiet_s > 0:
            clock.now_s += quiet_s
            assert one.verdict() is None
        while clock.now_s < end_s and one.verdict() is None:
            clock.now_s += step_s
        clock.now_s += grace_s if one.verdict() else 0
        used = one.spent()
    slack = 1 + 1e-9
    assert not limits["max_hours"] or used.wall_s <= limits["max_hours"] * HOUR_S * slack
    assert not limits["max_cost_usd"] or used.cost_usd <= limits["max_cost_usd"] * slack


def test_a_machine_that_is_ended_before_the_budget_is_spent_gives_the_run_its_own_hours_and_no_less():
    """Launched for 0.40 USD per hour, so for 12.5 h, it costs 0.20: 5 USD would last for 25 h."""
    limits, used = BudgetConfig(price_usd_per_hour=0.2, max_cost_usd=5), Spent(wall_s=2 * HOUR_S, cost_usd=0.4)
    here = within(limits, used, 12.25 * HOUR_S)
    assert (here.max_hours, here.max_cost_usd) == (14.25, 5) and left_s(here, used) == 12.25 * HOUR_S
    assert left_s(limits, used) == pytest.approx(23 * HOUR_S)
    assert within(limits, used, 23.01 * HOUR_S) == within(limits, used, math.inf) == limits
    assert left_s(within(limits, Spent(), -1), Spent()) < 2, "no limit is 0, and is not what this machine leaves"
    assert within(BudgetConfig(), used, HOUR_S).max_hours == 3


def test_the_ending_says_what_was_spent_and_how_to_go_on():
    clock = Clock()
    one = budget(Spent(wall_s=HOUR_S, cost_usd=1.0), clock, price_usd_per_hour=2, max_cost_usd=1.5)
    assert one.verdict() is None and one.left_s() == pytest.approx(900)
    clock.now_s += 900 - 30.9
    ending = one.verdict()
    assert ending is not None and ending.exit_code == ExitCode.BUDGET
    assert "1.48 of 1.50 USD" in ending.message and "--max-cost" in ending.message
    assert "--max-hours" not in ending.message


def test_small_amounts_are_written_without_exponents():
    shown = [amount_text(amount) for amount in (12.5, 0.0163, 4.57e-05, 8.67e-06, 0.0)]
    assert shown == ["12.50", "0.0163", "0.000046", "0.000009", "0"]


def test_without_a_limit_nothing_ever_ends():
    clock = Clock()
    one = budget(Spent(wall_s=1e9), clock, price_usd_per_hour=2)
    clock.now_s += 1e9
    one.refuse_spent()
    assert one.verdict() is None and one.left_s() == math.inf


@pytest.mark.parametrize("used", [Spent(wall_s=2 * HOUR_S), Spent(wall_s=2 * HOUR_S - 20)])
def test_a_start_with_nothing_left_to_work_with_is_refused_with_79(used):
    with pytest.raises(BudgetError, match="of 2.00 h.*--max-hours") as refused:
        budget(used, Clock(), max_hours=2).refuse_spent()
    assert refused.value.exit_code == 79


def test_one_warning_in_the_life_of_a_run():
    heard: list[str] = []
    clock = Clock()
    one = budget(Spent(), clock, heard=heard, max_hours=10)
    for _ in range(3):
        one.verdict()
    assert not heard
    clock.now_s += 8 * HOUR_S
    for _ in range(3):
        one.verdict()
    assert len(heard) == 1 and "80%" in heard[0] and "8.00 of 10.00 h" in heard[0]
    budget(one.spent(), clock, heard=heard, max_hours=10).verdict()
    assert len(heard) == 1, "the next start knows that it was told"


# -- the check


PLAN = make_plan(Facts(resolve("DEMO-USD_1H", "quick").config, (), {}, 1))


def check(used: Spent, expected_s: float, accepted: bool = False, **limits: float):
    plan = replace(PLAN, wall_s=Range(expected_s / 2, expected_s, expected_s * 2))
    return check_budget(BudgetConfig(**limits), used, plan, accepted)


def test_the_check_compares_what_is_expected_with_what_is_left_to_spend():
    limits = {"price_usd_per_hour": 2, "max_cost_usd": 3}
    assert check(Spent(cost_usd=1), 3_599, **limits).verdict == "ok"
    failed = check(Spent(cost_usd=1), 3_700, **limits)
    assert failed.verdict == "fail" and failed.exit_code == ExitCode.BUDGET
    assert "2.06 USD" in failed.found and "1.00 of 3.00 USD" in failed.found and "2.00 USD" in failed.needed
    assert "--max-cost" in failed.remedy and "--yes" in failed.remedy


def test_yes_accepts_a_run_that_may_stop_unfinished():
    assert check(Spent(), 7_200, max_hours=1).verdict == "fail"
    assert check(Spent(), 7_200, accepted=True, max_hours=1).verdict == "warn"


def test_the_tighter_of_two_limits_counts():
    limits = BudgetConfig(price_usd_per_hour=1, max_cost_usd=5, max_hours=2)
    assert left_s(limits, Spent(wall_s=HOUR_S, cost_usd=1)) == HOUR_S
    assert left_s(limits, Spent(wall_s=HOUR_S, cost_usd=4.5)) == HOUR_S / 2
