"""The verdict in plain words: what was found, what it means, what it does not mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.report import numbers
from runner.report.facts import Facts

BASELINE_NAMES = {
    "flat": "staying flat",
    "buy_and_hold": "buy & hold",
    "moving_average": "a moving-average rule",
    "random": "random timing at its 95th percentile",
    "follow_classifier": "following the classifier",
}


@dataclass(frozen=True)
class Words:
    """The first thing a reader sees."""

    tone: str
    """`good`, `bad` or `open`: the colour of the verdict."""
    headline: str
    meaning: str
    limits: str
    """What the verdict does not say."""


def words_of(facts: Facts) -> Words:
    """The words of this run's verdict, or that there is none yet."""
    verdict = facts.evaluation.get("verdict")
    if verdict == "edge":
        words = _edge(facts.evaluation)
    elif verdict == "collapsed":
        words = _collapsed(facts.evaluation)
    elif verdict:
        words = _no_evidence(facts.evaluation, str(verdict))
    else:
        words = _not_judged()
    if facts.synthetic:
        limits = f"The bars are generated, not traded: nothing here says anything about a market. {words.limits}"
        words = Words(words.tone, f"{words.headline} (synthetic data)", words.meaning, limits)
    return words


def baseline_name(key: object) -> str:
    """A baseline's name in a sentence."""
    return BASELINE_NAMES.get(str(key), str(key))


def _edge(evaluation: dict[str, Any]) -> Words:
    return Words(
        tone="good",
        headline="Edge",
        meaning=f"{_result(evaluation)} It takes into account {_scorings(evaluation)}.",
        limits=(
            "It is one market, one period and a model of costs. It is not a forecast, and fills at the next open "
            "without market impact are kinder than a real order book."
        ),
    )


def _collapsed(evaluation: dict[str, Any]) -> Words:
    agents = evaluation.get("agents") or []
    dead = [agent["seed"] for agent in agents if (agent.get("metrics") or {}).get("collapsed")]
    which = f"{len(dead)} of {len(agents)} agents" if dead and agents else "the agents"
    return Words(
        tone="bad",
        headline="Collapsed",
        meaning=(
            f"On {_test_part(evaluation)}, {which} stopped deciding: hardly any change of position, or the same "
            "position on nearly every bar. Such results are those of a constant, not of a strategy."
        ),
        limits=f"It does not say that nothing can be learned here; this training did not. {_power(evaluation)}",
    )


def _no_evidence(evaluation: dict[str, Any], verdict: str) -> Words:
    return Words(
        tone="open",
        headline=verdict[:1].upper() + verdict[1:],
        meaning=f"{_result(evaluation)} {_shortfall(evaluation)}",
        limits=f"It is not proof that there is no edge. {_power(evaluation)}",
    )


def _not_judged() -> Words:
    return Words(
        tone="open",
        headline="Not judged yet",
        meaning="The test part has not been scored in this run, so there is no verdict. What exists so far is below.",
        limits="Figures of training and validation are no evidence about unseen bars.",
    )


def _test_part(evaluation: dict[str, Any]) -> str:
    span = evaluation.get("test_range") or {}
    first, last = numbers.day(span.get("first_t")), numbers.day(span.get("last_t"))
    return f"{numbers.count(span.get('bars'))} bars never seen in training ({first} to {last})"


def _result(evaluation: dict[str, Any]) -> str:
    """What was measured, in two sentences."""
    mean, best = evaluation.get("mean") or {}, evaluation.get("best_baseline") or {}
    return (
        f"On {_test_part(evaluation)}, the agents' mean return after costs has an annual Sharpe ratio of "
        f"{numbers.ratio(mean.get('sharpe'))}. With {_confidence(evaluation)} confidence it is above "
        f"{numbers.ratio(mean.get('sharpe_lower_bound'))}; the best baseline, {baseline_name(best.get('name'))}, "
        f"reaches {numbers.ratio(best.get('sharpe'))}."
    )


def _shortfall(evaluation: dict[str, Any]) -> str:
    """Why the result is no edge."""
    mean, best = evaluation.get("mean") or {}, (evaluation.get("best_baseline") or {}).get("sharpe")
    sharpe, lower = mean.get("sharpe"), mean.get("sharpe_lower_bound")
    if not (numbers.is_number(sharpe) and numbers.is_number(lower) and numbers.is_number(best)):
        return "That is not enough."
    if sharpe <= best:
        return "The agents did not beat it."
    if lower <= best:
        return "The agents are ahead of it, but by no more than luck explains."
    return f"That lead does not survive the correction for {_scorings(evaluation)} and the shape of the returns."


def _scorings(evaluation: dict[str, Any]) -> str:
    scored = (evaluation.get("trials") or {}).get("count")
    return "one scoring of this test part" if scored == 1 else f"{numbers.count(scored)} scorings of this test part"


def _confidence(evaluation: dict[str, Any]) -> str:
    return numbers.percent(evaluation.get("confidence"), 0)


def _power(evaluation: dict[str, Any]) -> str:
    detectable = evaluation.get("detectable_sharpe") or {}
    return (
        f"A test of this length finds, with {numbers.percent(detectable.get('power'), 0)} power, only a true annual "
        f"Sharpe ratio of {numbers.ratio(detectable.get('sharpe'))} or more; a smaller edge would go unnoticed."
    )
