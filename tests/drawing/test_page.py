"""The maker of HTML pages."""

import pytest

from tokennet.drawing.page import Html, code, element, folded, joined, page, table

HOSTILE = '<b> & "quoted"'


@pytest.mark.parametrize(
    "made",
    [
        element("p", HOSTILE),
        element("p", "x", title=HOSTILE),
        table([HOSTILE], [[HOSTILE]], HOSTILE),
        code([HOSTILE]),
        folded(HOSTILE, HOSTILE),
        joined([HOSTILE]),
        Html(page(HOSTILE, HOSTILE)),
    ],
)
def test_text_is_escaped_once(made):
    assert "<b>" not in made
    assert "&lt;b&gt; &amp; &quot;quoted&quot;" in made
    assert "&amp;lt;" not in made


def test_html_is_not_escaped_again():
    assert element("p", element("b", "x")) == "<p><b>x</b></p>"


def test_lines_are_numbered_and_marked():
    assert "<mark>   12  b</mark>" in code(["a", "b"], 11, [12])
    assert "11" not in code(["a"])


def test_what_scrolls_is_reached_by_the_keyboard():
    for made in (table(["a"], [["b"]], "numbers"), code(["a"])):
        assert 'tabindex="0"' in made
        assert "aria-label" in made


def test_a_page_is_light_and_dark_and_for_phones():
    text = page("title", element("p", "x"))
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert text.count("<h1>") == 1
