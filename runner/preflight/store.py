"""The object store: reachable, writable, and which protections it has, found by trying."""

from __future__ import annotations

from configs.errors import ConfigError, ExitCode, StoreError
from configs.schema import Config
from runner.preflight.check import CheckResult, Context
from runner.store.open import open_store
from runner.store.probe import NO_CLOCK, Probe, probe

NEEDED = "answers, keeps two runners of one run apart"
SHARE_OF_LIMIT = 0.25
"""One attempt of the first call may take twice this share of the check's limit: the SDKs repeat it once."""


def check_store(config: Config, context: Context) -> CheckResult:
    """Open the store and try every verb below a random prefix."""
    url = config.store.url
    if not url:
        return CheckResult("store", "none (store.url is empty)", "only to outlive the machine", "skipped")
    limit_s = config.preflight.check_timeout_s * SHARE_OF_LIMIT
    try:
        found = probe(open_store(url, answer_s=limit_s, deadline_s=limit_s))
    except ConfigError as error:
        return CheckResult("store", str(error), NEEDED, "fail", "correct --store", error.exit_code)
    except StoreError as error:
        remedy = "correct the address, credentials or rights, or run without --store and keep everything local"
        return CheckResult("store", str(error), NEEDED, "fail", remedy, ExitCode.MACHINE_UNFIT)
    return judge_store(url, found)


def judge_store(url: str, found: Probe) -> CheckResult:
    """Verdict on a store that answers."""
    clock = f"clock {abs(found.clock_ahead_s):.0f} s {'ahead' if found.clock_ahead_s > 0 else 'behind'}"
    says = (
        f"{url} answers in {found.answer_s * 1000:.0f} ms, {'clock in step' if abs(found.clock_ahead_s) < 2 else clock}"
    )
    if not found.missing:
        return CheckResult("store", f"{says}, conditional writes", NEEDED, "ok")
    lack = "no clock" if found.missing == [NO_CLOCK] else "no conditional writes"
    remedy = f"{lack}: two runners of this run cannot be kept apart; use one runner, or a store that can"
    return CheckResult("store", f"{says}; missing: {', '.join(found.missing)}", NEEDED, "warn", remedy)
