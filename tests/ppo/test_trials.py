"""The ledger of scorings: what counts, once, whoever writes beside."""

import subprocess
import sys
from dataclasses import replace

import pytest

from configs.errors import CannotWriteError
from ppo.trials import Trial, sharpes, touching
from ppo.trials import record as record_all

WRITER = """
import sys
from pathlib import Path
from ppo.trials import Trial, record
ledger = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for i in range(50):
    record(ledger, [Trial("data", 80, 100, f"shared-{i}", 0.01)])
    record(ledger, [Trial("data", 80, 100, f"{sys.argv[2]}-{i}-{part}", 0.01) for part in range(2)])
"""


def trial(key, *, data="data", start=80, stop=100, sharpe=0.01):
    return Trial(data, start, stop, key, sharpe)


def record(ledger, trial):
    """Enter one, and give those that touch it."""
    return touching(record_all(ledger, [trial]), [trial])


def test_each_new_scoring_of_the_same_bars_counts(tmp_path):
    ledger = tmp_path / "runs" / "trials.jsonl"
    assert [len(record(ledger, trial(key))) for key in "abc"] == [1, 2, 3]


def test_a_repeated_scoring_finds_the_same_number_again(tmp_path):
    ledger = tmp_path / "trials.jsonl"
    first = record(ledger, trial("a", sharpe=0.3))
    record(ledger, trial("b"))
    assert record(ledger, trial("a", sharpe=0.3)) == first == [trial("a", sharpe=0.3)]
    assert len(ledger.read_text().splitlines()) == 2


def test_other_data_and_disjoint_bars_do_not_count(tmp_path):
    ledger = tmp_path / "trials.jsonl"
    record(ledger, trial("a"))
    record(ledger, trial("b", data="other"))
    record(ledger, trial("c", start=60, stop=80))
    assert [entry.cache_key for entry in record(ledger, trial("d"))] == ["a", "d"]


def test_moving_the_split_by_a_bar_does_not_reset_the_count(tmp_path):
    ledger = tmp_path / "trials.jsonl"
    record(ledger, trial("a"))
    assert len(record(ledger, trial("b", start=81))) == 2
    assert len(record(ledger, trial("a", start=81))) == 1, "the same key over the same bars is one scoring"


def at(key, *, data="data", days=0, symbol="ADA-EUR", timeframe_s=3_600):
    """The bars 80 to 100 of one dataset, after `days` more days at the beginning of its file, or of another market."""
    start = 80 + 24 * days
    t = {"first_t": 1_700_000_000 + 80 * 3_600, "last_t": 1_700_000_000 + 99 * 3_600}
    return Trial(data, start, start + 20, key, 0.01, symbol, timeframe_s, **t)


def test_the_same_bars_of_a_dataset_with_one_more_day_count(tmp_path):
    ledger = tmp_path / "trials.jsonl"
    record(ledger, at("a"))
    assert [entry.cache_key for entry in record(ledger, at("b", data="a day more", days=1))] == ["a", "b"]
    later = replace(at("c", data="new"), first_t=at("a").last_t + 3_600, last_t=at("a").last_t + 7_200)
    assert [entry.cache_key for entry in record(ledger, later)] == ["c"]
    assert len(record(ledger, replace(later, cache_key="d", first_t=at("a").last_t))) == 4, "one bar is enough"
    for key, other in (("e", {"symbol": "ADA-USD"}), ("f", {"timeframe_s": 60})):
        assert len(record(ledger, at(key, data=key, **other))) == 1


def test_entries_of_an_older_ledger_touch_by_digest(tmp_path):
    ledger = tmp_path / "trials.jsonl"
    ledger.write_text('{"cache_key": "old", "dataset_digest": "data", "sharpe": 0.3, "start": 90, "stop": 110}\n')
    assert [entry.cache_key for entry in record(ledger, at("a"))] == ["old", "a"]
    assert [entry.cache_key for entry in record(ledger, at("b", data="other"))] == ["a", "b"]
    assert [entry.sharpe for entry in record(ledger, at("old"))] == [0.3], "scored again, it is one scoring"


def test_a_torn_line_is_passed_over_and_hides_no_later_one(tmp_path):
    ledger = tmp_path / "trials.jsonl"
    record(ledger, trial("a"))
    with ledger.open("a") as file:
        file.write('{"dataset_digest": "da')
    assert len(record(ledger, trial("b"))) == 2
    assert len(record(ledger, trial("c"))) == 3


def test_writers_side_by_side_lose_and_double_nothing(tmp_path):
    ledger = tmp_path / "trials.jsonl"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(ledger), name], **pipes) for name in "abcd"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=300)
    keys = [entry.cache_key for entry in record(ledger, trial("last"))]
    assert len(keys) == len(set(keys)) == 50 + 4 * 50 * 2 + 1


def test_an_unwritable_ledger_is_a_named_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match=r"trials\.jsonl"):
        record(tmp_path / "file" / "trials.jsonl", trial("a"))


def test_trials_entered_together_count_for_each_other_whatever_their_order(tmp_path):
    together = [trial("base"), trial("lstm"), trial("window", start=0, stop=90), trial("other", data="other")]
    for name, order in (("one", together), ("two", together[::-1])):
        entries = record_all(tmp_path / name, order)
        assert {entry.cache_key for entry in touching(entries, [trial("base")])} == {"base", "lstm", "window"}
        assert record_all(tmp_path / name, together) == entries, "entered again, they change nothing"


def test_a_killed_writers_missing_part_is_entered_by_the_re_run(tmp_path):
    ledger = tmp_path / "trials.jsonl"
    record_all(ledger, [trial("a")])
    assert [entry.cache_key for entry in record_all(ledger, [trial("a"), trial("b")])] == ["a", "b"]
    record_all(ledger, [trial("later")])
    assert [entry.cache_key for entry in record_all(ledger, [trial("a"), trial("b")])] == ["a", "b"]


def test_a_portfolio_uses_up_the_bars_of_each_asset_and_counts_once(tmp_path):
    ledger, both = tmp_path / "trials.jsonl", [trial("both", sharpe=0.2), trial("both", data="other", sharpe=0.2)]
    assert sharpes(touching(record_all(ledger, both), both), both) == {"both": 0.2}
    alone = record(ledger, trial("alone", data="other", sharpe=0.1))
    assert [entry.cache_key for entry in alone] == ["both", "alone"]
    again = record_all(ledger, [trial("again", sharpe=0.3)])
    assert sharpes(touching(again, both), both) == {"both": 0.2, "alone": 0.1, "again": 0.3}


def test_ratios_of_fewer_bars_count_as_over_the_bars_that_are_judged():
    """20 bars beside 80: without skill a ratio varies with one over the root of the bars, here by half."""
    own, part = trial("own", start=0, stop=80, sharpe=0.1), trial("part", start=60, stop=80, sharpe=0.3)
    assert sharpes([own, part], [own]) == pytest.approx({"own": 0.1, "part": 0.15})
    assert sharpes([own, part], [part]) == pytest.approx({"own": 0.2, "part": 0.3})


def test_no_trial_enters_nothing(tmp_path):
    assert record_all(tmp_path / "trials.jsonl", []) == []
