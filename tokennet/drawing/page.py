"""`page`: one self-contained HTML page, without network and scripts, light and dark.

Made of `element`, `table`, `code` and `folded`. Text is escaped; what these functions return is
`Html` and is not escaped again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

VOID = ("br", "hr", "meta")
"""Elements that have no end tag."""


class Html(str):
    """Text that is HTML already. Made by `element` and what is built on it."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Html:
    """An element; a child that is not `Html` is text. `class_` is the attribute `class`.

    >>> element("p", "1 < 2 ", element("b", "yes"), class_="note")
    '<p class="note">1 &lt; 2 <b>yes</b></p>'
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{joined(children)}</{tag}>")


def joined(parts: Iterable[object]) -> Html:
    """Parts one after another."""
    return Html("".join(p if isinstance(p, Html) else escape(str(p)) for p in parts))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], caption: str = "") -> Html:
    """A table that scrolls by itself where the page is narrow; also by the keyboard.

    >>> "<td>3</td>" in table(["n"], [[3]])
    True
    """
    header = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    parts = [element("caption", caption)] if caption else []
    parts += [element("thead", header)] if head else []
    whole = element("table", *parts, element("tbody", *body))
    return _scrolling(whole, caption or "table")


def code(lines: Sequence[str], start: int = 0, marked: Iterable[int] = ()) -> Html:
    """Source text.

    Args:
        start: the number of the first line; 0 for text without numbers.
        marked: the numbers of lines to mark.

    >>> code(["a", "b"], 7, [8]).count("<mark>")
    1
    """
    shown, chosen = [], set(marked)
    for number, line in enumerate(lines, start):
        text = f"{number:>5}  {line}" if start else line
        shown += [element("mark", text) if start and number in chosen else text, "\n"]
    return _scrolling(element("pre", element("code", *shown)), "source code")


def folded(summary: object, *children: object, unfolded: bool = False) -> Html:
    """What is shown on a click, or by the keyboard."""
    return element("details", element("summary", summary), *children, open="" if unfolded else None)


def _scrolling(content: Html, label: str) -> Html:
    return element("div", content, class_="wide", tabindex=0, role="region", aria_label=label)


def page(title: str, *content: object) -> str:
    """The page.

    >>> page("laws", element("p", "all hold")).startswith("<!doctype html>")
    True
    """
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(STYLE)),
    ]
    main = element("main", element("h1", title), *content, id="content")
    skip = element("a", "Skip to the content", href="#content", class_="skip")
    whole = element("html", element("head", *head), element("body", skip, main), lang="en")
    return f"<!doctype html>\n{whole}\n"


STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --dim: #57606a; --ground: #ffffff;
  --panel: #f4f6f8; --line: #d0d7de; --link: #0550ae; --mark: #fff3bf; --good: #116329;
  --bad: #b3151f; --open: #7d4e00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --dim: #9ba7b4;
  --ground: #0f1318; --panel: #181d24; --line: #343c46; --link: #79b8ff; --mark: #4d3c00;
  --good: #56d364; --bad: #ff8a80; --open: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .25rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .35rem; }
p { margin: .4rem 0; max-width: 48rem; overflow-wrap: anywhere; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, .wide:focus-visible { outline: 2px solid var(--link);
  outline-offset: 2px; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--ground); padding: .25rem .5rem; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; color: var(--dim); padding-bottom: .25rem; white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
pre { margin: 0; padding: .6rem .75rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: .4rem; width: max-content; min-width: 100%; }
code, .numbers { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td code { overflow-wrap: anywhere; }
mark { background: var(--mark); color: inherit; }
pre mark { display: inline-block; min-width: 100%; }
.numbers table { font: inherit; }
.numbers td, .numbers th { text-align: right; padding: .1rem .5rem; white-space: nowrap; }
.pair { display: grid; gap: 0 1.5rem; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); }
.pair > * { min-width: 0; }
.dim { color: var(--dim); }
.good, .bad, .open { font-weight: 600; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--open); }
summary { cursor: pointer; padding: .25rem 0; }
details > summary { color: var(--link); }
@media (max-width: 30rem) { main { padding: .75rem; } th, td { padding: .25rem .4rem; } }
@media print { details > * { display: block; } .skip { display: none; } }
"""
