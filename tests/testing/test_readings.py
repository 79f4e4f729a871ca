"""How the example of every case is read, against what is stored beside the cases.

After a new case, or a change that is meant, write the file anew and read what changed:

    python -m tests.testing.test_readings
"""

import json
from pathlib import Path

import pytest

from tests.testing.cases import INJECTED_BUGS, PASSING_MODELS
from tests.testing.cases.form_tables import QUICK
from tokennet.testing import Verdict, check
from tokennet.testing.example.case import make_case

STORED = Path(__file__).parent / "cases" / "readings.json"
BROKEN_BY = {bug.name: bug.law for bug in INJECTED_BUGS}
SLOW_FORMS = [
    case
    for case in PASSING_MODELS
    if case.name.startswith("form_") and case.name.removeprefix("form_") not in QUICK
]


def readings():
    found = {}
    for case in PASSING_MODELS:
        model, example = case.make()
        roles = {key: case.options[key] for key in ("roles", "outputs") if key in case.options}
        lines = make_case(model, example, **roles).reading
        found[case.name] = [f"{line.name}: {line.role}, {line.text}" for line in lines]
    return found


def test_every_example_is_read_as_stored():
    assert readings() == json.loads(STORED.read_text())


@pytest.mark.parametrize("case", SLOW_FORMS, ids=lambda case: case.name)
def test_a_form_obeys_the_law_that_its_bug_breaks(case):
    """The whole tables are under sweep: `test_check.py`."""
    model, example = case.make()
    law = BROKEN_BY[case.name]
    report = check(model, example, laws=[law], **case.options).reports[law]
    assert report.verdict is Verdict.PASS, report


if __name__ == "__main__":
    STORED.write_text(json.dumps(readings(), indent=1) + "\n")
