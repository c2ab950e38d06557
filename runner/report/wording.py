"""The verdict in plain words: what was found, what it means, what it does not mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from configs.verdicts import COLLAPSED, EDGE, ORDER, baseline_name
from runner.gates import JUDGE
from runner.report import numbers
from runner.report.facts import Facts
from runner.summary import family_title

MAX_NAMED = 3
"""Units in one sentence."""


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
    evaluation = facts.families[facts.leading].evaluation if facts.leading else {}
    verdict, who = evaluation.get("verdict"), _who(facts)
    if verdict == EDGE:
        words = _edge(evaluation, who)
    elif verdict == COLLAPSED:
        words = _collapsed(evaluation)
    elif verdict:
        words = _no_evidence(evaluation, str(verdict), who)
    else:
        return _labelled(_judged_before(facts) if JUDGE in facts.outdated else _not_judged(), facts)
    if len(facts.families) > 1:
        words = replace(words, meaning=f"{words.meaning} {_all_verdicts(facts)}")
    return _labelled(words, facts)


def _labelled(words: Words, facts: Facts) -> Words:
    """The words of generated bars say so."""
    if not facts.synthetic:
        return words
    limits = f"The bars are generated, not traded: nothing here says anything about a market. {words.limits}"
    return replace(words, headline=f"{words.headline} (synthetic data)", limits=limits)


def _who(facts: Facts) -> str:
    """The agents the verdict speaks of, named where there are several kinds."""
    return f"the {family_title(facts.leading)} agents'" if len(facts.families) > 1 else "the agents'"


def _all_verdicts(facts: Facts) -> str:
    """How many of the run's kinds of agents got which verdict."""
    verdicts = [family.evaluation.get("verdict") for family in facts.families.values()]
    counts = [f"{verdict} ({verdicts.count(verdict)})" for verdict in ORDER if verdict in verdicts]
    return f"Verdicts on the {len(verdicts)} kinds of agents in this run: {', '.join(counts)}."


def _edge(evaluation: dict[str, Any], who: str) -> Words:
    return Words(
        tone="good",
        headline="Edge",
        meaning=f"{_result(evaluation, who)} It takes into account {_scorings(evaluation)}.",
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


def _no_evidence(evaluation: dict[str, Any], verdict: str, who: str) -> Words:
    return Words(
        tone="open",
        headline=verdict[:1].upper() + verdict[1:],
        meaning=f"{_result(evaluation, who)} {_shortfall(evaluation)}",
        limits=f"It is not proof that there is no edge. {_power(evaluation)}",
    )


def _not_judged() -> Words:
    return Words(
        tone="open",
        headline="Not judged yet",
        meaning="The test part has not been scored in this run, so there is no verdict. What exists so far is below.",
        limits="Figures of training and validation are no evidence about unseen bars.",
    )


def _judged_before(facts: Facts) -> Words:
    changed = facts.outdated[JUDGE]
    named = ", ".join(changed[:MAX_NAMED]) + " and more" * (len(changed) > MAX_NAMED)
    return Words(
        tone="open",
        headline="Not judged anew yet",
        meaning=(
            f"The test part was scored before {named} changed, so that verdict no longer counts, and neither it nor "
            "its figures are shown."
        ),
        limits="Figures of training and validation are no evidence about unseen bars.",
    )


def _test_part(evaluation: dict[str, Any]) -> str:
    span = evaluation.get("test_range") or {}
    first, last = numbers.day(span.get("first_t")), numbers.day(span.get("last_t"))
    return f"{numbers.count(span.get('bars'))} bars never seen in training ({first} to {last})"


def _result(evaluation: dict[str, Any], who: str) -> str:
    """What was measured, in two sentences."""
    mean, best = evaluation.get("mean") or {}, evaluation.get("best_baseline") or {}
    return (
        f"On {_test_part(evaluation)}, {who} mean return after costs has an annual Sharpe ratio of "
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
        f"Sharpe ratio of {numbers.ratio(detectable.get('sharpe'))} or more against 0, and against a baseline of "
        "Sharpe b about b more; a smaller edge would go unnoticed."
    )
