"""The HTML page of a report: whole, escaped, without network; and as a browser shows it."""

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

from tests.testing.formats.reports import HOSTILE, MODEL, counterexample, report, result
from tokennet.drawing.page import VOID
from tokennet.testing import LawReport, Verdict, check
from tokennet.testing.example.reading import ReadingLine
from tokennet.testing.formats import to_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Reader(HTMLParser):
    """Checks that every element ends, and keeps what is there."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mean.py"
    path.write_text(MODEL)
    return path


def test_the_page_has_verdicts_lines_and_the_counterexample(file):
    page = to_html(report(file), "models:Mean", known={"padding"})
    reader = read(page)
    text = " ".join(" ".join(reader.text).split())
    assert "2 of 5 laws are BROKEN" in text
    for verdict in Verdict:
        assert verdict in reader.text
    assert page.count("in the baseline") == 1
    assert "    6          return (x" in "".join(reader.text)  # with its line
    assert page.count("<mark>    6") == page.count("<mark>    7") == 1
    for caption in ("input[1] before", "input[1] after", "output[0] expected", "output[0] got"):
        assert caption in text
    assert "to mend a break" in text
    assert "A script that shows it" in text
    assert "import torch" in text


def numbers_of(page, caption):
    """The entries of the table of this caption, row by row."""
    rows = page[page.index(caption) :].partition("</table>")[0].split("<tr>")[2:]
    return [" ".join(re.findall("<td[^>]*>([0-9.]+)</td>", row)) for row in rows]


def test_tensors_of_other_shapes_are_shown_whole_beside_each_other(file):
    wanted, got = torch.arange(12.0).view(2, 3, 2), torch.arange(100.0, 104).view(1, 2, 2)
    row, other = torch.arange(3.0), torch.arange(50.0, 55)
    found = dataclasses.replace(
        counterexample(), changed=(row,), inputs=(other,), expected=[wanted], got=[got]
    )
    law = result("padding", Verdict.BROKEN, counterexample=found)
    page = to_html(LawReport("Mean", "x", {"padding": law}, 0.1), "models:Mean")
    assert numbers_of(page, "output[0] expected, shape (2, 3, 2)") == ["0 1", "2 3", "4 5"]
    assert numbers_of(page, "output[0] got, shape (1, 2, 2)") == ["100 101", "102 103"]
    assert numbers_of(page, "input before, shape (5,)") == ["50", "51", "52", "53", "54"]
    assert numbers_of(page, "input after, shape (3,)") == ["0", "1", "2"]
    assert "<mark>" not in page


def test_what_is_not_the_same_is_marked_and_nothing_else(file):
    page = to_html(report(file), "models:Mean")
    marked = re.findall("<mark>([0-9.]+)</mark>", page)
    assert marked == ["12", "13", "14", "15", *["7"] * 4, "0", "5"]


def test_the_page_stands_alone(file):
    reader = read(to_html(report(file), "models:Mean"))
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    addresses = [value for name, value in reader.attributes if name in ("href", "src")]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    ids = {value for name, value in reader.attributes if name == "id"}
    assert {address[1:] for address in addresses} <= ids


def test_the_reading_is_a_table_of_what_the_report_has(file):
    lines = (
        ReadingLine(
            "mask", "tensor (3, 7)", "padding:True=keep", "padding of x", hint="pass roles"
        ),
        ReadingLine("0", "tensor (3, 7, 8)", "tokens:-2", "per token", is_output=True),
    )
    told = dataclasses.replace(report(file), reading=lines)
    text = read(to_html(told, "models:Mean")).text
    start = text.index("Reading")
    assert text[start + 2 : start + 15] == [
        "name", "value", "role", "read as",
        "mask", "tensor (3, 7)", "padding:True=keep", "padding of x", "pass roles",
        "output 0", "tensor (3, 7, 8)", "tokens:-2", "per token",
    ]  # fmt: skip
    assert "Reading" not in read(to_html(report(file), "models:Mean")).text


def test_every_text_is_escaped(file):
    hostile = report(file, reason=HOSTILE)
    page = to_html(hostile, HOSTILE)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_report_of_a_real_check():
    found = check(lambda x: x.cumsum(-2), torch.randn(3, 7, 4), laws=["node_permutation"])
    reader = read(to_html(found, "cumsum"))
    assert "swapping tokens 0 and 1 of 2" in " ".join(reader.text)


def test_a_check_that_shows_nothing_says_so(file):
    report = LawReport("Mean", "x", {"padding": result("padding", Verdict.VACUOUS)}, 0.1)
    assert "Nothing was shown" in to_html(report, "models:Mean")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [500, 1100])
def test_a_browser_shows_it_without_scrolling_sideways(file, tmp_path, scheme, width):
    if CHROMIUM is None:
        pytest.skip("needs chromium on the path")
    page = to_html(report(file), "models:Mean")
    probe = (
        "<script>document.title = [document.documentElement.scrollWidth <= innerWidth,"
        "getComputedStyle(document.body).backgroundColor].join('; ')</script></body>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", probe))
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
         f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
         "--dump-dom", f"file://{tmp_path / 'page.html'}"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    ground = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]
    assert f"<title>true; {ground}</title>" in done.stdout
