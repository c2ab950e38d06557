import io
import json
import time

from rich.console import Console

from runner.console import PlainLines, clock, progress_text, render_final, render_view, short
from runner.view import RUN, EventTail, RunView, UnitView


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
        "detectable_sharpe": {"sharpe": 3.9},
        "report": "/runs/x/report/index.html",
    }
    lines = text_of(render_final(summary, ["sequence-runner status x"])).splitlines()
    assert lines[0].startswith("verdict  no evidence of an edge") and "synthetic" in lines[0]
    shown = "\n".join(lines)
    for part in ("agent, seed 0", "buy & hold", "+30.0%", "8,760", "3.90", "/runs/x/report/index.html", "status x"):
        assert part in shown


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
