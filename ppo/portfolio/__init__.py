"""One account, K assets of one quote currency and cash: rules, clock, environments, evaluation."""
