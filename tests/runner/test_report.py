"""The report as a file: what it says, what it leaves out, what it never does."""

import contextlib
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.events import EventLog
from configs.files import read_json, write_json
from configs.load import resolve
from configs.run_dir import Request, Result, RunDir
from runner.expansion import agent_units
from runner.identity import outputs_digest
from runner.report import write_report
from runner.report.facts import CHANGED, Facts, read_facts
from runner.report.markup import Html, join, json_script, table, tag
from runner.report.numbers import duration, interval, percent, ratio, signed_percent
from runner.report.page import SECTIONS, render
from runner.report.series import drawdown, rounded, thin
from runner.report.timeline import clock_of, units_of
from runner.report.wording import words_of
from runner.reuse import current_result, outdated
from runner.summary import run_object
from tests.runner.plan_sample import ASSETS, MONTHS
from tests.runner.report_sample import FIRST_T, SEEDS, UNITS, make_run

HOSTILE = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return read_facts(make_run(tmp_path_factory.mktemp("short"), bars=40))


@pytest.fixture
def own_run(run, tmp_path) -> RunDir:
    """A copy that a test may damage."""
    return RunDir(shutil.copytree(run.root, tmp_path / run.root.name))


def without_plotly(page: str) -> str:
    """The page less Plotly's own text, which has addresses and markup of its own."""
    return re.sub(r"<script>/\*\*\n\* plotly\.js.*?</script>", "", page, flags=re.DOTALL)


def figures_of(page: str) -> dict[str, dict]:
    text = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)[1]
    return {figure["id"]: figure for figure in json.loads(text)}


def with_evaluation(facts: Facts, evaluation: dict) -> Facts:
    """The base agents were judged like this."""
    return replace(facts, families=facts.families | {"ppo": replace(facts.families["ppo"], evaluation=evaluation)})


def test_the_report_is_written_whole_and_equal_for_equal_files(run):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert run.report.read_bytes() == first
    assert list(run.report.parent.iterdir()) == [run.report]


def test_every_section_of_a_finished_run_is_there_and_nothing_is_called_missing(run):
    page = render(read_facts(run))
    sections = re.findall(r'</section>|<section id="(\w+)">', page)
    assert [name for name in sections if name] == [builder.id for builder in SECTIONS]
    assert "Not in this run yet" not in page
    assert "cannot be shown" not in page
    assert "Damaged" not in page


def test_the_page_refers_to_nothing_outside_itself(run):
    page = without_plotly(render(read_facts(run)))
    assert "Content-Security-Policy" in page
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert not re.search(r"@import|url\(", page)


def test_equity_figure_has_the_values_of_the_table(run):
    columns = read_facts(run).equity
    traces = {trace["name"]: trace for trace in figures_of(render(read_facts(run)))["figure-equity"]["data"]}
    mean = traces["agents' mean"]
    assert mean["x"] == [1_000 * t for t in columns["t"]]
    np.testing.assert_allclose(mean["y"], columns["equity_mean"], rtol=1e-5)
    running_high = np.maximum.accumulate(columns["equity_mean"])
    expected = np.array(columns["equity_mean"]) / running_high - 1
    np.testing.assert_allclose(traces["drawdown, agents"]["y"], expected, rtol=1e-5, atol=1e-12)


def test_numbers_of_the_verdict_stand_on_the_page(run):
    page = render(read_facts(run))
    evaluation = read_json(run.unit_dir("evaluate") / "ppo" / "evaluation.json")
    shown = page[: page.index('id="equity"')]
    assert "No evidence of an edge" in shown
    assert ratio(evaluation["mean"]["sharpe"]) in shown
    assert interval(evaluation["mean"]["sharpe_interval"]) in shown
    detectable = ratio(evaluation["detectable_sharpe"]["sharpe"])
    assert f"{detectable} or more against 0, and against a baseline" in shown and "against 0, with 80" in shown
    assert all(reason["text"].replace("'", "&#x27;") in shown for reason in evaluation["reasons"])


@pytest.mark.parametrize(
    "verdict, headline, tone",
    [
        ("edge", "Edge", "good"),
        ("collapsed", "Collapsed", "bad"),
        ("no evidence of an edge", "No evidence of an edge", "open"),
    ],
)
def test_each_verdict_has_its_words_and_says_what_it_does_not_mean(tmp_path, verdict, headline, tone):
    words = words_of(read_facts(make_run(tmp_path, bars=50, verdict=verdict)))
    assert (words.headline, words.tone) == (headline, tone)
    assert "50 bars never seen in training" in words.meaning
    assert words.limits


@pytest.mark.parametrize(
    "sharpe, lower, says",
    [(-3.0, -6.0, "did not beat it"), (2.0, -1.0, "no more than luck explains"), (3.0, 1.5, "does not survive")],
)
def test_the_words_say_which_way_an_edge_was_missed(facts, sharpe, lower, says):
    mean = facts.evaluation["mean"] | {"sharpe": sharpe, "sharpe_lower_bound": lower}
    best = {"name": "buy_and_hold", "sharpe": 1.0}
    changed = facts.evaluation | {"mean": mean, "best_baseline": best}
    assert says in words_of(with_evaluation(facts, changed)).meaning


def test_the_run_has_the_best_verdict_among_its_agents_and_names_whose_it_is(facts):
    families = dict(facts.families)
    edge = families["walk_forward"].evaluation | {"verdict": "edge"}
    families["walk_forward"] = replace(families["walk_forward"], evaluation=edge)
    words = words_of(replace(facts, families=families))
    assert words.headline == "Edge"
    assert "the Walk-forward PPO agents' mean return" in words.meaning
    assert "edge (1), no evidence of an edge (3)" in words.meaning
    assert words_of(facts).headline == "No evidence of an edge"


def test_each_kind_of_agent_has_its_row_and_its_line(run):
    page = render(read_facts(run))
    section = page[page.index('<section id="agents">') : page.index('<section id="targets">')]
    for name in ("Base PPO", "LSTM-PPO", "Multi-asset PPO", "Walk-forward PPO"):
        assert f">{name}</th>" in section
    assert len(figures_of(page)["figure-agents-equity"]["data"]) == 4


def test_a_run_of_portfolio_agents_alone_has_a_report(own_run):
    for name in ("ppo", "lstm_ppo", "walk_forward"):
        shutil.rmtree(own_run.unit_dir("evaluate") / name)
    page = without_plotly(write_report(own_run).read_text())
    assert "cannot be shown" not in page
    assert 'id="portfolio"' in page and 'id="positions"' not in page


def test_contributions_of_the_assets_add_up(run):
    page = render(read_facts(run))
    section = page[page.index('<section id="portfolio">') : page.index('<section id="windows">')]
    row = re.search(r"Together</th>(.*?)</tr>", section)[1]
    mean = read_facts(run).families["multi_asset"].evaluation["mean"]
    whole = [signed_percent(mean["total_return"]), percent(mean["annual_volatility"])]
    assert re.findall(r">([^<]+)<", row)[2:4] == whole
    assert f">{whole[0]}<" in section[: section.index("Together</th>")]
    weights = figures_of(page)["figure-weights"]["data"]
    assert [trace["name"] for trace in weights] == list(ASSETS)
    columns = read_facts(run).families["multi_asset"].equity
    mean = np.mean([columns[f"weight_seed_{seed}_ETH-USDT"] for seed in range(SEEDS)], axis=0)
    np.testing.assert_allclose(weights[1]["y"], mean, rtol=1e-5, atol=1e-9)


def test_a_target_that_cannot_be_decided_says_so_beside_its_standard_error(run):
    page = render(read_facts(run))
    section = page[page.index('<section id="targets">') : page.index('<section id="equity">')]
    row = re.search(r"Base PPO: Sharpe ratio<span.*?</tr>", section)[0]
    for part in ("> 1.00", "0.93 \u00b1 ", "2.15", "cannot be decided"):
        assert part.replace(">", "&gt;") in row


def test_the_heat_map_has_every_month_and_seed(run):
    trace = figures_of(render(read_facts(run)))["figure-months"]["data"][0]
    assert trace["x"] == MONTHS
    assert trace["y"] == ["mean", *(f"seed {seed}" for seed in range(SEEDS)), "buy & hold", "moving average"]
    windows = read_facts(run).families["walk_forward"].evaluation["windows"]
    np.testing.assert_allclose(trace["z"][1], [month["agents"][0]["total_return"] for month in windows], rtol=1e-5)


def test_choosing_among_seeds_is_called_that_and_what_the_chosen_one_lost_stands_beside_it(run):
    page = render(read_facts(run))
    section = page[page.index('<section id="windows">') :]
    assert re.search(r"Overfitting by choosing among seeds</dt>\s*<dd>44\s?%", section)
    assert re.search(r"The chosen seed lost afterwards</dt>\s*<dd>50\s?%", section)
    assert "Choosing among the 3 seeds" in section and "not whether any seed earns" in section
    assert re.search(r"Probability of backtest overfitting</dt>\s*<dd>none: no other configuration", section)


def test_overfitting_over_configurations_is_shown_where_there_are_several(facts):
    family = facts.families["walk_forward"]
    several = dict(family.evaluation["pbo_of_seeds"], probability=0.31, chosen_frac={"one": 0.25, "other-run": 0.75})
    family = replace(family, evaluation=family.evaluation | {"pbo_of_configurations": several})
    section = render(replace(facts, families=facts.families | {"walk_forward": family}))
    assert re.search(r"Probability of backtest overfitting</dt>\s*<dd>31\s?%, of 2 configurations", section)
    assert "Choosing among the 2 configurations" in section and "most often other-run (75" in section


def test_the_ablation_says_what_selected_its_agents(run):
    assert "whose first half selected the checkpoints of both" in render(read_facts(run))


def test_a_closed_gate_and_its_reason_are_shown(run):
    page = render(read_facts(run))
    section = page[page.index('<section id="gates">') : page.index('<section id="prediction">')]
    assert re.search(r"multi_asset</th>.*closed.*lstm_ppo was left out: multi_asset is left out", section)


def test_what_a_stage_took_stands_beside_what_was_predicted(run):
    page = render(read_facts(run))
    section = page[page.index('<section id="prediction">') : page.index('<section id="resources">')]
    row = re.search(r"prepare</th>(.*?)</tr>", section)[1]
    assert re.findall(r">([^<]+)<", row)[:4] == ["24.0 s", "14.4 s to 26.4 s", "25.0 s", "+4\u00a0%"]


def test_the_cost_is_that_of_all_starts_each_at_its_own_price(own_run):
    log = own_run.events / "supervisor.jsonl"
    log.write_text(log.read_text().replace('"kind":"run_started"', '"kind":"run_started","price_usd_per_hour":36', 1))
    lines = log.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if '"run_started"' in line)
    lines[last] = lines[last].replace('"kind":"run_started"', '"kind":"run_started","price_usd_per_hour":72')
    log.write_text("\n".join(lines) + "\n")
    first_s, second_s = (events[-1]["t"] - events[0]["t"] for events in starts_of(lines))
    page = render(read_facts(own_run))
    assert f"{(first_s * 36 + second_s * 72) / 3_600:.2f} USD" in page[page.index("Cost of all starts") :][:200]


def starts_of(lines: list[str]) -> list[list[dict]]:
    starts: list[list[dict]] = []
    for event in map(json.loads, lines):
        starts += [[]] * (event["kind"] == "run_started")
        starts[-1] = [*starts[-1], event]
    return starts


def test_only_what_the_run_has_is_called_missing(own_run):
    for stage in ("synthetic", "evaluate", "ablation"):
        shutil.rmtree(own_run.unit_dir(stage))
    missing = re.search(r"Not in this run yet: </strong>(.*?)</p>", write_report(own_run).read_text())[1]
    assert "Verdict" not in missing and "Agents side by side" in missing
    assert "ablation" not in missing, "it is made on demand only"


def test_what_a_closed_gate_left_out_is_not_waited_for(own_run):
    shutil.rmtree(own_run.unit_dir("synthetic"))
    assert "synthetic" in missing_in(own_run)
    say_of("synthetic", own_run, "unit_finished", state="gated")
    assert missing_in(own_run) == ""
    say_of("synthetic", own_run, "unit_started")
    assert "synthetic" in missing_in(own_run), "the gate is open in a later start"


def say_of(unit: str, run: RunDir, kind: str, **fields: str) -> None:
    with contextlib.closing(EventLog(run.events, "supervisor")) as log:
        log.emit(kind, unit, **fields)


def missing_in(run: RunDir) -> str:
    found = re.search(r"Not in this run yet: </strong>(.*?)</p>", render(read_facts(run)))
    return found[1] if found else ""


def test_synthetic_data_is_labelled_at_the_top_in_the_title_the_verdict_and_the_data(tmp_path):
    page = without_plotly(render(read_facts(make_run(tmp_path, dataset="DEMO-USD_1H", bars=50, synthetic=True))))
    assert "SYNTHETIC DATA" in page[: page.index("<header>")]
    assert "synthetic data" in re.search(r"<title>(.*?)</title>", page)[1]
    assert "(synthetic data)</p>" in page[page.index('id="verdict"') :]
    assert '<body class="synthetic">' in page
    assert "generated bars" in page[page.index('id="data"') :]


def test_real_data_is_nowhere_called_synthetic(run):
    page = without_plotly(render(read_facts(run)))
    page = page.replace((page[page.index("<style>") : page.index("</style>")]), "")
    page = page[: page.index('id="figures"')]
    about_bars_that_are = "stress|pretraining|configuration|resources|preflight"
    page = re.sub(rf'<section id="({about_bars_that_are})">.*?</section>', "", page, flags=re.DOTALL)
    assert re.findall("synthetic", page, re.IGNORECASE) == ["Synthetic"]  # "Synthetic: no"


def test_markup_in_any_value_stays_text(own_run):
    evaluate = own_run.unit_dir("evaluate") / "ppo"
    evaluation = read_json(evaluate / "evaluation.json")
    evaluation["verdict"] = HOSTILE
    evaluation["best_baseline"]["name"] = HOSTILE
    evaluation["reasons"][0]["text"] = HOSTILE
    evaluation["agents"][0]["metrics"]["actions"] = {HOSTILE: 1.0}
    write_json(evaluate / "evaluation.json", evaluation)
    scores = read_json(evaluate.parent / "classifiers.json")
    write_json(evaluate.parent / "classifiers.json", {HOSTILE: scores["gru"]})
    identity = read_json(own_run.run_json) | {"command": ["sequence-runner", HOSTILE], "run_id": HOSTILE}
    write_json(own_run.run_json, identity | {"machine": {HOSTILE: HOSTILE}})
    dataset = read_json(own_run.unit_dir("prepare") / "dataset.json") | {"name": HOSTILE, "notes": [HOSTILE]}
    write_json(own_run.unit_dir("prepare") / "dataset.json", dataset)
    with (own_run.events / "supervisor.jsonl").open("a") as file:
        check = {"t": FIRST_T + 6_000_000, "unit": "run", "kind": "check", "name": HOSTILE, "found": HOSTILE}
        file.write(json.dumps(check) + "\n")
    page = without_plotly(write_report(own_run).read_text())
    assert page.count(HOSTILE) == 0
    assert "<img" not in page
    assert len(re.findall("<script", page)) == 2  # figures and drawing; Plotly's was taken out
    assert page.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 8


@pytest.mark.parametrize(
    "lost",
    [
        "run.json",
        "config.yaml",
        "events",
        "stages/prepare",
        "stages/evaluate",
        "stages/evaluate/ppo/equity.parquet",
        "stages/classifiers",
        "stages/ppo",
        "stages/synthetic",
        "stages/synthetic/tags.parquet",
        "stages/evaluate/walk_forward/equity.parquet",
        "plan.json",
        "stages",
    ],
)
def test_a_run_that_lacks_a_part_still_has_a_report(own_run, lost):
    path = own_run.root / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = without_plotly(write_report(own_run).read_text())
    assert own_run.run_id in page
    assert "cannot be shown" not in page


def test_an_empty_run_directory_says_that_nothing_was_judged(tmp_path):
    page = without_plotly(write_report(RunDir(tmp_path / "fresh")).read_text())
    assert "Not judged yet" in page
    assert "Not in this run yet" in page


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\xfe", b"null", b'"text"'])
@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "config.yaml",
        "stages/evaluate/ppo/evaluation.json",
        "stages/evaluate/ppo/equity.parquet",
        "stages/prepare/dataset.json",
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(own_run, name, content):
    (own_run.root / name).write_bytes(content)
    page = without_plotly(write_report(own_run).read_text())
    assert "Training curves" in page
    if content != b"null":
        assert f"</strong>{name}: " in page


def done_anew(run: RunDir, unit: str, inputs: dict[str, str], **metrics) -> Result:
    run.save_request(Request(unit=unit, cache_key="key", inputs=inputs))
    return run.save_result(unit, metrics)


def test_a_verdict_on_agents_that_were_made_anew_since_is_none_and_the_page_says_so(own_run):
    inputs = {"ppo/seed-0": outputs_digest(done_anew(own_run, "ppo/seed-0", {}))}
    done_anew(own_run, "evaluate", inputs, verdict="collapsed")
    own_run.run_json.unlink()  # the sample's is one of a page, not of a runner
    page = write_report(own_run).read_text()
    assert "Outdated: " not in page and 'id="comparison"' in page
    assert run_object(own_run, 0)["verdict"] == "collapsed"
    (own_run.unit_dir("ppo/seed-0") / "policy.json").write_text("{}")
    done_anew(own_run, "ppo/seed-0", {})
    assert run_object(own_run, 0)["verdict"] is None
    page = without_plotly(write_report(own_run).read_text())
    assert "</strong>evaluate read results of ppo/seed-0 that are no longer here" in page
    assert "<title>Not judged anew yet - " in page and "no evidence of an edge" not in page.lower()
    assert "scored before ppo/seed-0 changed" in page and 'id="comparison"' not in page


def test_an_evaluation_of_agents_that_are_gone_holds_no_more_and_a_dataset_is_no_agent(own_run):
    inputs = {"ppo/seed-0": outputs_digest(done_anew(own_run, "ppo/seed-0", {})), "dataset/ADA-EUR_1H": "9f" * 32}
    done_anew(own_run, "evaluate", inputs, verdict="edge")
    assert (outdated(own_run, "evaluate"), current_result(own_run, "evaluate").metrics) == ([], {"verdict": "edge"})
    (own_run.unit_dir("ppo/seed-0") / "result.json").unlink()  # as a retraining begins
    assert (outdated(own_run, "evaluate"), current_result(own_run, "evaluate")) == (["ppo/seed-0"], None)


def test_agents_trained_after_the_evaluation_are_called_not_judged(own_run):
    inputs = {"ppo/seed-0": outputs_digest(done_anew(own_run, "ppo/seed-0", {}))}
    done_anew(own_run, "evaluate", inputs, verdict="edge")
    seeds = agent_units(own_run.load_config())["lstm_ppo"]
    for number, unit in enumerate(seeds, start=1):
        done_anew(own_run, unit, {})
        said = "did not read the results of lstm_ppo that are here" in write_report(own_run).read_text()
        assert said == (number == len(seeds)), "a part of a family is never judged"


def test_seeds_of_which_only_some_were_pre_trained_are_named(facts):
    starts = {"ppo/seed-0": "pretrained", "ppo/seed-1": "scratch", "ppo/seed-2": "pretrained"}
    unequal = replace(facts, metrics=facts.metrics | {unit: {"start": start} for unit, start in starts.items()})
    assert "of ppo, seed-0 and seed-2 began pretrained, seed-1 began scratch" in render(unequal)
    assert "Unequal seeds" not in without_plotly(render(facts))


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\xfe", b'{"starts": [{}], "format": 1}'])
def test_all_that_the_further_stages_leave_may_be_damaged_at_once(own_run, content):
    names = ["evaluate/targets.json", "evaluate/walk_forward/evaluation.json", "evaluate/lstm_ppo/equity.parquet"]
    names += ["synthetic/moments.json", "synthetic/gallery.parquet", "ablation/summary/ablation.json"]
    for path in [own_run.root / "plan.json", *(own_run.stages / name for name in names)]:
        path.write_bytes(content)
    page = without_plotly(write_report(own_run).read_text())
    assert "No evidence of an edge" in page and "Training curves" in page


ANY_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=6)


@settings(max_examples=25)
@given(st.data(), ANY_JSON | st.dictionaries(st.text(max_size=3), ANY_JSON, max_size=2))
def test_a_value_of_another_form_never_stops_the_report(facts, data, value):
    """At any place of the evaluation, down to two levels."""
    evaluation = dict(facts.evaluation)
    key = data.draw(st.sampled_from(sorted(evaluation)))
    below = evaluation[key]
    if isinstance(below, dict) and below and data.draw(st.booleans()):
        value = below | {data.draw(st.sampled_from(sorted(below))): value}
    evaluation[key] = value
    assert facts.run_id in render(with_evaluation(facts, evaluation))


def test_an_unfinished_run_shows_curves_from_its_events(own_run):
    shutil.rmtree(own_run.unit_dir("evaluate"))
    for path in own_run.stages.rglob("history.json"):
        path.unlink()
    lines = [
        {"t": FIRST_T, "unit": "classifiers/gru", "kind": "metric", "name": "fit", "model": "fold-0"}
        | {"epoch": epoch, "train_loss": 1.0 - epoch / 10, "stop_loss": 1.1}
        for epoch in (1, 2)
    ]
    lines += [
        {"t": FIRST_T, "unit": "ppo/seed-0", "kind": "metric", "name": "train", "step": step, "entropy": 2.0 - step}
        for step in (1, 2)
    ]
    lines.append({"t": FIRST_T, "unit": "ppo/seed-0", "kind": "metric", "name": "validation", "step": 2, "score": 2e-4})
    (own_run.events / "units.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = figures_of(write_report(own_run).read_text())
    assert [trace["y"] for trace in figures["figure-fits"]["data"]] == [[0.9, 0.8], [1.1, 1.1]]
    assert [trace["y"] for trace in figures["figure-agents"]["data"]] == [[2], [1, 0]]


@given(
    st.lists(st.floats(-1e6, 1e6) | st.none(), min_size=1, max_size=400),
    st.integers(8, 60),
)
def test_thinning_keeps_ends_extremes_and_order(values, limit):
    x, y = thin(list(range(len(values))), values, limit)
    assert len(x) <= max(limit, 4)
    assert all(values[index] == value for index, value in zip(x, y, strict=True))
    assert x == sorted(set(x))
    assert (len(values) > limit) or x == list(range(len(values)))
    known = [value for value in values if value is not None]
    if known:
        kept = [value for value in y if value is not None]
        assert (min(kept), max(kept)) == (min(known), max(known))


def test_long_lines_are_thinned_and_the_page_says_so(tmp_path):
    page = render(read_facts(make_run(tmp_path, bars=20_001)))
    lengths = [len(trace["x"]) for trace in figures_of(page)["figure-equity"]["data"]]
    assert max(lengths) <= 5_000
    assert "every extreme is kept" in page


def test_drawdown_by_hand():
    assert drawdown([100, 120, 90, 120, 150, 75]) == [0, 0, -0.25, 0, 0, -0.5]


def test_what_is_not_finite_becomes_a_gap():
    assert rounded([1.0, float("nan"), None, float("inf"), 1 / 3, 12345678]) == [
        1,
        None,
        None,
        None,
        0.333333,
        12345678,
    ]


def test_numbers_are_written_with_sign_unit_and_a_dash_for_none():
    assert percent(-0.1234) == "\u221212.3\u00a0%"
    assert signed_percent(0.5, 0) == "+50\u00a0%"
    assert ratio(None) == ratio(float("nan")) == "\u2013"
    assert interval([-1, 2.345]) == "[\u22121.00, 2.35]"
    assert [duration(seconds) for seconds in (4.21, 185, 3_720)] == ["4.2 s", "3 min 05 s", "1 h 02 min"]


def test_running_time_leaves_out_the_hours_between_two_starts():
    events = [
        {"t": 100, "kind": "run_started", "unit": "run"},
        {"t": 100, "kind": "unit_started", "unit": "a"},
        {"t": 160, "kind": "progress", "unit": "a"},
        {"t": 10_000, "kind": "run_started", "unit": "run"},
        {"t": 10_000, "kind": "unit_started", "unit": "a"},
        {"t": 10_030, "kind": "unit_finished", "unit": "a", "state": "done"},
        {"t": 10_030, "kind": "unit_started", "unit": "b"},
        {"t": 10_060, "kind": "run_finished", "unit": "run"},
    ]
    clock = clock_of(events)
    assert clock.total_s == 120
    assert [clock.minutes(t) for t in (100, 130, 160, 9_000, 10_000, 10_060)] == [0, 0.5, 1, 1, 1, 2]
    first, second, third = units_of(events, ["a", "b", "c"])
    assert [(span.start_t, span.stop_t) for span in first.spans] == [(100, 160), (10_000, 10_030)]
    assert [unit.state for unit in (first, second, third)] == ["done", "running", "waiting"]


def test_the_retried_unit_shows_both_attempts_and_the_failed_one_in_red(run):
    units = {unit.id: unit for unit in units_of(read_facts(run).events)}
    assert set(units) == set(UNITS)
    assert [span.failed for span in units["classifiers/dlstm"].spans] == [True, False]


def test_the_command_is_quoted_so_that_a_shell_takes_it_back(run):
    page = render(read_facts(run))
    command = re.search(r'<code id="command">(.*?)</code>', page)[1]
    assert command.endswith("--data-dir &#x27;my data&#x27;")


def test_settings_of_this_run_alone_stand_out_and_the_others_name_their_origin(own_run):
    own_run.save_config(resolve("ADA-EUR_1H", "quick", settings=["ppo.discount=0.95", "costs.fee_frac=0.0025"]).config)
    origins = read_facts(own_run).origins
    assert [key for key, origin in origins.items() if origin == CHANGED] == ["ppo.discount"]
    assert origins["ppo.epochs"] == "profile quick"
    assert origins["costs.fee_frac"] == "assets.yaml (crypto)"
    assert origins["judging.bootstrap_samples"] == "default"
    page = write_report(own_run).read_text()
    assert '<th scope="row">ppo.discount</th><td>0.95</td>' in page[page.index("Set for this run") :]


def test_a_batch_that_was_halved_is_a_setting_of_this_run(own_run):
    runtime = (config := own_run.load_config()).runtime.model_copy(update={"batch_halvings": {"ppo/seed-0": 1}})
    own_run.save_config(config.model_copy(update={"runtime": runtime}))
    assert read_facts(own_run).origins["runtime.batch_halvings.ppo/seed-0"] == CHANGED
    assert write_report(own_run).is_file()


def test_every_seed_is_shown(run):
    page = render(read_facts(run))
    for seed in range(SEEDS):
        assert f">Seed {seed}</th>" in page


@given(st.text())
def test_text_never_becomes_markup(text):
    written = tag("p", text, title=text)
    inner = written.removeprefix('<p title="').removesuffix("</p>")
    assert "<" not in inner
    assert inner.count('"') == 1  # the attribute's end
    assert inner.count(">") == 1


@given(st.text())
def test_no_text_ends_a_data_script(text):
    script = json_script("x", {"name": text})
    body = script.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert "<" not in body
    assert json.loads(body) == {"name": text}


def test_markup_is_written_once_and_not_escaped_twice():
    assert join([tag("b", "1 < 2"), Html("<br>"), "&"]) == "<b>1 &lt; 2</b><br>&amp;"
    assert '<td class="num">7</td>' in table(["", "n"], [["a", 7]], label="t")


def test_many_units_are_folded_and_drawn_by_stage(own_run):
    lines = []
    for month in range(40):
        for kind, fields in (("unit_started", {"attempt": 1}), ("unit_finished", {"state": "done", "says": ""})):
            unit = f"walk_forward/20{20 + month // 12}-{month % 12 + 1:02d}"
            lines.append({"t": FIRST_T + 5_003_800 + month, "unit": unit, "kind": kind} | fields)
    with (own_run.events / "supervisor.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(own_run).read_text()
    assert re.search(r"<summary>All \d+ units</summary>", page)
    assert set(figures_of(page)["figure-units"]["data"][0]["y"]) >= {"prepare", "ppo", "walk_forward"}
