import io
import json
import time

import pytest
from rich.console import Console

from runner.console import PlainLines, clock, progress_text, render_final, render_view, short
from runner.view import RUN, EventTail, RunView, UnitView, folded


def event(t: float, unit: str, kind: str, **fields) -> dict:
    return {"t": t, "unit": unit, "kind": kind} | fields


def text_of(renderable, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def view_after(*events: dict) -> RunView:
    view = RunView()
    view.expect(["prepare", "ppo/seed-0"])
    for item in events:
        view.apply(item)
    return view


RUNNING = (
    event(100, RUN, "run_started"),
    event(101, "prepare", "unit_started", attempt=1),
    event(104, "prepare", "unit_finished", state="done"),
    event(105, "ppo/seed-0", "unit_started", attempt=1),
    event(110, "ppo/seed-0", "progress", done=25, total=100, rate=5.0, entropy=1.5),
)


def test_a_view_follows_the_events():
    view = view_after(*RUNNING)
    unit = view.units["ppo/seed-0"]
    assert view.units["prepare"].state == "done" and view.units["prepare"].elapsed_s(999) == 3
    assert (unit.state, unit.share, unit.values) == ("running", 0.25, {"entropy": 1.5})
    assert unit.eta_s(110) == 15, "75 left at 5 per second"


def test_units_of_stages_that_no_start_chose_are_not_waited_for():
    done = (
        event(100, RUN, "run_started", stages=["prepare"]),
        event(101, "prepare", "unit_started", attempt=1),
        event(104, "prepare", "unit_finished", state="done"),
    )
    assert list(view_after(*done).units) == ["prepare"]
    again = view_after(*done, event(110, RUN, "run_started", stages=["ppo"]))
    assert [(unit.id, unit.state) for unit in again.units.values()] == [("prepare", "done"), ("ppo/seed-0", "waiting")]


def test_without_a_rate_the_time_left_follows_from_the_share_done():
    unit = UnitView("x", state="running", started_t=100, done=25, total=100)
    assert unit.eta_s(110) == 30


def test_a_second_attempt_begins_anew():
    view = view_after(
        *RUNNING, event(111, "ppo/seed-0", "retry", says="killed"), event(112, "ppo/seed-0", "unit_started", attempt=2)
    )
    unit = view.units["ppo/seed-0"]
    assert (unit.share, unit.attempt, unit.values) == (0.0, 2, {})


def test_values_of_progress_outrank_those_of_metrics():
    view = view_after(*RUNNING, event(111, "ppo/seed-0", "metric", name="train", loss=3.0))
    assert view.units["ppo/seed-0"].values == {"entropy": 1.5}


def test_a_run_that_lost_its_runner_is_not_shown_as_running():
    view = view_after(*RUNNING)
    view.settle()
    unit = view.units["ppo/seed-0"]
    assert unit.state == "stopped" and unit.elapsed_s(9_999) == 5
    assert "elapsed 10 s" in text_of(render_view(view, "run x", 9_999)), "no time passes for a run that is cut off"


def test_a_unit_skipped_by_a_later_start_shows_the_time_it_took():
    view = view_after(*RUNNING, event(900, "prepare", "unit_finished", state="skipped"))
    assert view.units["prepare"].elapsed_s(9_999) == 3


def test_trouble_with_the_store_is_shown_whole_and_dated_below_the_last_snapshot():
    says = "store: trouble for 17 s, training goes on: s3://bucket/runs/x/HEAD.json: " + "unreachable " * 8 + "at last"
    kept = event(110, RUN, "checkpoint", snapshot="00000012-00000001", sent_bytes=5_000_000)
    shown = text_of(render_view(view_after(*RUNNING, kept, event(120, RUN, "retry", says=says)), "run x", 150), 80)
    assert "snapshot 12, 5 MB sent, 40 s ago" in shown and "at last" in shown
    assert time.strftime("%H:%M:%S store: trouble", time.localtime(120)) in shown


def test_the_table_shows_every_unit_with_its_figures():
    shown = text_of(render_view(view_after(*RUNNING), "run x", 110))
    line = next(line for line in shown.splitlines() if "ppo/seed-0" in line)
    for part in ("running", "5/s", "15 s", "entropy 1.5"):
        assert part in line


def test_on_a_narrow_terminal_the_last_values_have_the_room():
    view = view_after(*RUNNING)
    wide, narrow = (text_of(render_view(view, "run x", 110), width) for width in (100, 80))
    assert "entropy 1.5" in narrow and "5/s" in wide and "5/s" not in narrow and "elapsed" not in narrow.split("\n")[1]


def test_a_failed_units_reason_is_shown():
    view = view_after(*RUNNING, event(120, "ppo/seed-0", "unit_finished", state="failed", says="crashed: [bad] sum"))
    assert "crashed: [bad] sum" in text_of(render_view(view, "run x", 130))


def test_progress_reads_as_one_line():
    unit = view_after(*RUNNING).units["ppo/seed-0"]
    assert progress_text(unit, 110) == "25% (25/100), 5/s, 15 s left, entropy 1.5"


def test_the_final_block_begins_with_the_verdict_and_says_synthetic():
    summary = {
        "verdict": "no evidence of an edge",
        "synthetic": True,
        "agents": [{"seed": 0, "sharpe": 0.5, "total_return": 0.1, "max_drawdown": 0.2, "trades": 12}],
        "mean": {"sharpe": 0.5, "total_return": 0.1, "max_drawdown": 0.2, "trades": 12},
        "baselines": {"buy_and_hold": {"sharpe": 0.7, "total_return": 0.3, "max_drawdown": 0.4, "trades": 1}},
        "bars_per_year": 8760,
        "detectable_sharpe": {"sharpe": 3.9, "power": 0.8},
        "cost_usd": 1.2345,
        "report": "/runs/x/report/index.html",
    }
    lines = text_of(render_final(summary, ["sequence-runner status x"])).splitlines()
    assert lines[0].startswith("verdict  no evidence of an edge") and "synthetic" in lines[0]
    shown = "\n".join(lines)
    shown = " ".join(shown.split())
    for part in ("agent, seed 0", "buy & hold", "+30.0%", "8,760", "1.23 USD", "/runs/x/report/index.html", "status x"):
        assert part in shown
    assert "a Sharpe ratio of 3.90 is told from 0 in 80% of cases" in shown


def long_plan() -> RunView:
    """Nine stages with 48 windows on their way: 12 done, two at work, one that failed."""
    view, t = RunView(), 100.0
    windows = [f"walk_forward/{2020 + month // 12}-{month % 12 + 1:02d}" for month in range(12, 60)]
    members = [f"classifiers/{name}" for name in ("lstm", "gru", "bilstm", "dlstm", "ensemble")]
    seeds = [f"{stage}/seed-{seed}" for stage in ("pretrain", "ppo", "lstm_ppo", "multi_asset") for seed in range(3)]
    monthly = ["walk_forward/classifier-dlstm", "walk_forward/classifier-bilstm"]
    ended = ["prepare", "synthetic", *members, *seeds, *monthly, *windows[:12]]
    view.expect([*ended, *windows[12:], "evaluate"])
    view.apply(event(t, RUN, "run_started"))
    for unit in ended:
        view.apply(event(t, unit, "unit_started", attempt=1))
        view.apply(event(t + 10, unit, "unit_finished", state="gated" if "lstm_ppo" in unit else "done"))
    for unit in windows[12:14]:
        view.apply(event(t + 20, unit, "unit_started", attempt=1))
        view.apply(event(t + 30, unit, "progress", done=50_000, total=300_000, rate=5_000.0, entropy=1.5, seed=1))
    view.apply(event(t + 20, windows[14], "unit_started", attempt=1))
    view.apply(event(t + 25, windows[14], "unit_finished", state="failed", says="crashed: a bad sum"))
    return view


def test_a_run_of_many_windows_fits_a_small_terminal():
    view = long_plan()
    for number in range(2):
        verdict = {"stage": "lstm_ppo", "asked": "ppo", "verdict": "closed", "says": "it is below its target"}
        view.apply(event(140 + number, RUN, "gate", **verdict))
    shown = text_of(render_view(view, "run BTC-USDT_1H-full-1a2b3c4d", 140), width=80).splitlines()
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80
    for name in (
        "prepare",
        "classifiers 5/5",
        "pretrain 3/3",
        "lstm_ppo",
        "walk_forward 14/50",
        "  2022-01",
        "evaluate",
    ):
        assert any(line.startswith(name) for line in shown), name
    assert sum("crashed" in line for line in shown) == 2, "of the stage and of the unit"


def test_a_folded_stage_has_the_state_that_needs_a_look():
    view = long_plan()
    windows = [unit for unit in view.units.values() if unit.id.startswith("walk_forward/2")]
    whole = folded("walk_forward", windows)
    assert whole.state == "failed"
    assert folded("walk_forward", windows[:14]).state == "running"
    assert folded("walk_forward", [*windows[:12], windows[-1]]).state == "waiting"
    assert folded("walk_forward", windows[:12]).elapsed_s(999) == 10
    assert whole.share == pytest.approx((12 + 2 / 6) / 48)


def test_what_an_earlier_start_did_is_no_measure_of_what_is_left():
    units = [UnitView("a/1", "skipped"), UnitView("a/2", "running", started_t=100, done=1, total=4)]
    assert folded("a", units).eta_s(110) == 30


def test_each_kind_of_agents_has_one_line_in_the_final_block():
    mean = {"sharpe": 0.5, "total_return": 0.1, "max_drawdown": 0.2, "trades": 12}
    families = {
        "lstm_ppo": {"verdict": "collapsed", "mean": mean},  # as a file has them, by name
        "ppo": {"verdict": "no evidence of an edge", "mean": mean},
        "walk_forward": {"verdict": "edge", "mean": mean | {"sharpe": 2.25}},
    }
    summary = {"verdict": "edge", "synthetic": False, "families": families, "agents": [], "mean": mean}
    summary |= {"baselines": {}, "bars_per_year": 8760, "detectable_sharpe": None, "report": None}
    lines = text_of(render_final(summary, ()), 80).splitlines()
    assert lines[0].startswith("verdict  edge")
    line = next(line for line in lines if line.startswith("Walk-forward PPO"))
    assert "2.25" in line and line.rstrip().endswith("edge")
    first, *others, title = [line.rstrip() for line in lines if "PPO" in line]
    assert [line.split()[0] for line in (first, *others)] == ["Base", "LSTM-PPO", "Walk-forward"]
    assert title == "Base PPO, each seed, beside what needs no skill"


def test_numbers_are_short():
    assert [short(value) for value in (1_234_567, 1_234.5, 12.0, 0.01234, "gru")] == [
        "1.23M",
        "1,234",
        "12",
        "0.0123",
        "gru",
    ]
    assert [clock(value) for value in (7, 67, 3_723)] == ["7 s", "1:07", "1:02:03"]


def test_a_tail_gives_each_event_once_and_waits_for_the_end_of_a_line(tmp_path):
    path, tail = tmp_path / "unit.jsonl", EventTail(tmp_path)
    lines = [json.dumps(event(t, "x", "progress", done=t)) for t in (1, 2, 3)]
    path.write_text(f"{lines[0]}\n{lines[1][:10]}")
    assert [item["t"] for item in tail.poll()] == [1]
    assert tail.poll() == []
    with path.open("a") as file:
        file.write(f"{lines[1][10:]}\nnot json\n{lines[2]}\n")
    assert [item["t"] for item in tail.poll()] == [2, 3]


def test_a_stop_is_said_once_where_there_is_no_terminal(capsys):
    lines, view = PlainLines(), RunView()
    for view.stopping in (False, True, True):
        lines(view)
    assert capsys.readouterr().err.count("stopping at the next safe boundary") == 1


CLOSED = event(106, RUN, "gate", stage="lstm_ppo", asked="ppo", verdict="closed", says="too low: lstm_ppo is left out")
GATED = event(106, "lstm_ppo/seed-0", "unit_finished", state="gated", says="too low: lstm_ppo is left out")


def test_a_closed_gate_is_told_in_the_table_and_as_one_line(capsys):
    view = view_after(*RUNNING, CLOSED, GATED)
    shown = text_of(render_view(view, "run", 120.0))
    assert "gate of lstm_ppo closed: too low" in shown and "gated" in shown
    lines = PlainLines()
    lines(view)
    lines(view)
    assert capsys.readouterr().err.count("gate of lstm_ppo closed") == 1


def test_verdicts_of_an_earlier_start_are_not_shown():
    assert view_after(CLOSED, event(200, RUN, "run_started")).gates == []
