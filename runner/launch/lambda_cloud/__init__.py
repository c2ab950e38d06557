"""Lambda Cloud: one instance carries out one run and ends itself; Lambda has no stop, no spot and no logs."""

from runner.launch.lambda_cloud.provider import LambdaCloud

__all__ = ["LambdaCloud"]
