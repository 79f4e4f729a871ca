"""A report of `check` in the formats of other tools: JUnit, SARIF, a baseline, an HTML page."""

from tokennet.testing.formats.baseline import Baseline, read_baseline
from tokennet.testing.formats.html import to_html
from tokennet.testing.formats.junit import to_junit
from tokennet.testing.formats.sarif import to_sarif

__all__ = ["Baseline", "read_baseline", "to_html", "to_junit", "to_sarif"]
