"""Whether the git repository that the results go to would take a push."""

from __future__ import annotations

from configs.schema import Config
from runner.preflight.check import CheckResult, Context
from runner.publish import probe
from runner.publish.errors import PublishError

SHARE_OF_LIMIT = 0.8
"""Of the check's limit, so that a silent server gives this check's own answer."""


def check_publishing(config: Config, context: Context) -> CheckResult:
    """Talk to the repository as far as a dry run of a push goes; branch rules and hooks show only at a real one."""
    url, branch = config.publish.git_url, config.publish.branch
    needed = "a repository that lets us push"
    if not url:
        return CheckResult("publishing", "no repository is set (--git)", needed, "skipped")
    try:
        found = probe(url, branch, config.preflight.check_timeout_s * SHARE_OF_LIMIT)
    except PublishError as error:
        return CheckResult("publishing", error.found, needed, "warn", error.remedy)
    return CheckResult("publishing", found, needed, "ok")
