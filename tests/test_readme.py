"""The two commands of the README, which a newcomer copies."""

from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_first_command_installs_what_the_comparison_needs():
    assert 'pip install -c constraints.txt -e ".[compare]" && tokennet compare arrows' in README


def test_the_second_command_installs_what_the_tests_need():
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in README
