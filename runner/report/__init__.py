"""The report of a run: one HTML file that needs nothing but a browser.

`write_report` reads the run directory, whatever state it is in, and writes
`report/index.html`. It computes no result: every number comes from the files.
"""

from runner.report.page import write_report

__all__ = ["write_report"]
