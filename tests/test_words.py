"""Docs, docstrings, comments, messages and help texts use the terms of the field.

Each entry of `GLOSSARY` is a phrase to avoid, what to write instead, and a sentence that must be
caught. Only phrases with no other meaning are listed. Names in code are not tested.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


class Entry(NamedTuple):
    """A phrase to avoid; a blank in the pattern is any white space, so a phrase may span lines."""

    pattern: str
    instead: str
    example: str


IZE = (
    "local|normal|recogn|initial|optim|general|summar|minim|maxim|organ|parametr|parameter|vector|"
    "serial|symmetr|special|discret|token|quant|random|stabil|amort|central|equal|real|categor|util|"
    "synchron|standard|regular|visual|penal|factor|diagonal|linear|memor|priorit|material|neutral|"
    "character|formal|author|final|global|canonical|custom|internal|external|marginal|orthonormal"
)
"""What stands before -ise, -ised, -isation in British spelling."""
OUR = "col|neighb|behavi|hon|fav|flav|rig|vig|hum|lab|harb|endeav"
DOUBLED = "label|model|travel|tunnel|channel|signal|level|cancel|total|fuel|dial|equal|marshal"

GLOSSARY = [
    Entry(r"listen(s|ed|ing|ers?)?", "attends to; is visible to", "Token i listens to j."),
    Entry(r"(un|over)?hear(s|d|ing)?", "attends to, receives from", "A token hears its neighbors."),
    Entry(r"by place", "by index", "Parameters by place."),
    Entry(r"places? in the array", "index, position in the array", "its place in the array"),
    Entry(r"positional codes?", "positional encodings", "A positional code is a vector."),
    Entry(r"codes? of (a |the )?(graphs?|positions?)", "positional encodings", "codes of graphs"),
    Entry(r"fill(s|ed|ing)? (\w+ )?up", "padded", "Sets are filled up to the longest."),
    Entry(r"turn(s|ed|ing)? (\w+ )?round", "rotated, transposed, reversed", "Edges turned round."),
    Entry(r"step( |-)by( |-)step", "incremental decoding, state", "It goes step by step."),
    Entry(r"steps? (have |has )?left behind", "state, KV cache", "what earlier steps left behind"),
    Entry(r"(un)?wired", "fixed sparsity pattern", "A wired mixer."),
    Entry(r"connections of (its|their) own", "fixed sparsity pattern", "connections of its own"),
    Entry(r"likeliest", "most probable", "the likeliest ids"),
    Entry(r"scores of (all )?ids", "logits", "Vectors to scores of ids."),
    Entry(r"minds", "is not equivariant to, depends on", "Only the MLP-mixer minds."),
    Entry(r"(does|do) not mind", "does not depend on", "It does not mind the order."),
    Entry(r"borrow(s|ed|ing)?", "runs in a sandbox", "The model is borrowed."),
    Entry(
        r"(given|gives|come|comes|came) back (just |exactly )?as (it|they) (came|was|were)",
        "its state is restored",
        "The model is given back exactly as it came.",
    ),
    Entry(r"accus(e|es|ed|ing)", "false positive; reported as broken", "It is accused."),
    Entry(r"truthful", "passing", "a truthful model"),
    Entry(r"planted", "injected bug", "planted bugs"),
    Entry(r"cheat(s|ed|ing)?", "negative control", "a cheat is found"),
    Entry(r"witness(es|ed)?", "counterexample", "the witness of a break"),
    Entry(r"for want of", "as a last resort; because there is no", "for want of another"),
    Entry(r"(?<!twice\s)(?<!times\s)as many", "the same number of", "as many heads as channels"),
    Entry(r"so many", "the same number of; that number of", "of so many tokens"),
    Entry(r"likewise", "say the thing again; also", "y likewise"),
    Entry(
        r"(the|other|long|longer|short|shorter|new|old|earlier|later|last|next|first|broken|small|"
        r"smaller|large|larger|listed|own|few|wide|narrow|same|in-place) ones",
        "name what they are",
        "short sets and long ones",
    ),
    Entry(r"declin(e|es|ed|ing)", "does not support", "FlexAttention declines float64."),
    Entry(r"judg(e|es|ed|ing|ment)", "verdict; decides", "One judge decides."),
    Entry(r"(what it )?has to show", "artifacts", "what the best net has to show"),
    Entry(r"what there is to see", "artifacts", "what there is to see"),
    Entry(r"quick figures", "quick metrics", "quick figures in float64"),
    Entry(r"(are|is) dressed", "built, configured", "how blocks are dressed"),
    Entry(rf"\w*({IZE})is(e[sdr]?|ers|ing|ations?|able)", "-ize", "Relocalised, normalisation."),
    Entry(rf"\w*({OUR})our\w*", "-or", "neighbours"),
    Entry(rf"\w*({DOUBLED})l(ed|ing|er|ers|ings)", "one l", "relabelled"),
    Entry(r"\w*centre[sd]?", "center", "the centre of mass"),
    Entry(r"licences?", "license", "the licence"),
    Entry(r"(un)?analys(e|ed|ing)", "analyze", "We analyse it."),
    Entry(r"grey", "gray", "grey lines"),
    Entry(r"catalogues?", "catalog", "a catalogue of nets"),
    Entry(r"artefacts?", "artifact", "an artefact"),
    Entry(r"(whil|among)st", "while, among", "whilst it runs"),
    Entry(r"programmes?", "program", "a programme"),
    Entry(r"(milli|kilo|centi)?metres?", "meter", "ten metres"),
    Entry(r"(de|of)fences?", "defense, offense", "in defence of"),
    Entry(r"(learn|spel|burn)t", "learned, spelled, burned", "a learnt table"),
    Entry(r"fulfils?", "fulfill", "It fulfils the law."),
]  # fmt: skip
ALLOWED = """
Optuna's trials. The exit code is 1. A vector of ones, torch.ones(3). It takes an argument.
In place. The code of the layer. Attention weights. Turned into a tensor. Twice as many tokens.
Summary, analysis and analyses; optimistic; cancellation; emphasis; promise; otherwise; precise.
Compiled, controlled, rolled, called; hour, four, our, your, source; a likely id; neighbors; honor.
One run after the other. Heads are padded. A shared file. Filled with zeros. An organism, a metric.
Step 3. Beginners. Reminds. A pathway. Raised, supervised, comprised, noise, exercise, concise.
"""


def compiled() -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(rf"\b(?:{entry.pattern.replace(' ', chr(92) + 's+')})\b", re.I), entry.instead)
        for entry in GLOSSARY
    ]


PATTERNS = compiled()


def keep(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with all but the spans blotted out; line breaks stay, so that lines count."""
    result = list(re.sub(r"\S", "\0", text))
    for start, end in spans:
        result[start:end] = text[start:end]
    return "".join(result)


def prose_of_python(text: str) -> str:
    """Comments and strings, without the signs that mark them."""
    strings = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    spans, marks, names = [], [], []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        start, end = (starts[line - 1] + column for line, column in (token.start, token.end))
        if token.type in strings or token.type == tokenize.COMMENT:
            spans.append((start, end))
            if re.match(r"[rR]?[fF]", token.string):  # one token up to Python 3.11
                fields = re.finditer(r"\{[^{}]*\}", token.string)
                names += [(start + f.start(), start + f.end()) for f in fields]
        elif tokenize.tok_name[token.type] in ("FSTRING_START", "FSTRING_END"):
            marks.append((start, end))
    prose = list(without_code_spans(keep(text, spans)))
    for replacement, places in ((" ", marks), ("\0", names)):
        for start, end in places:
            prose[start:end] = replacement * (end - start)
    return re.sub(r"\b[rbfRBF]{1,2}(?=[\"'])|[\"'#]", lambda m: " " * len(m[0]), "".join(prose))


def prose_of_cpp(text: str) -> str:
    comments = re.finditer(r"//[^\n]*|/\*.*?\*/", text, flags=re.DOTALL)
    return keep(text, [found.span() for found in comments]).replace("//", "  ")


def without_code_spans(text: str) -> str:
    """Names in `backticks` are not prose."""
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", lambda found: "\0" * len(found[0]), text)


def prose_of_markdown(text: str) -> str:
    """Text, output and comments of snippets."""

    def mask(found: re.Match[str]) -> str:
        return f"{found[1]}{prose_of_python(found[2])}{found[3]}"

    return without_code_spans(re.sub(r"(```python\n)(.*?)(```)", mask, text, flags=re.DOTALL))


READERS = {
    ".py": prose_of_python,
    ".cpp": prose_of_cpp,
    ".h": prose_of_cpp,
    ".md": prose_of_markdown,
}


def faults(text: str, suffix: str = ".md") -> Iterator[tuple[int, str, str]]:
    """(line, phrase, what to write instead) for each phrase of the glossary."""
    prose = READERS[suffix](text)
    for pattern, instead in PATTERNS:
        for found in pattern.finditer(prose):
            yield prose.count("\n", 0, found.start()) + 1, " ".join(found[0].split()), instead


def rooms() -> dict[str, list[Path]]:
    """Files by room: a folder of the package, or a folder or page beside it."""
    package = [p for p in (ROOT / "tokennet").rglob("*") if p.suffix in READERS]
    beside = [*ROOT.glob("*.md"), ROOT / "pytest_tokennet.py"]
    for folder in ("docs", "examples", "benchmarks"):
        beside += [p for p in (ROOT / folder).glob("*") if p.suffix in READERS]
    result: dict[str, list[Path]] = {}
    for path in sorted([*package, *beside]):
        parts = path.relative_to(ROOT).parts
        result.setdefault("/".join(parts[: 1 + (parts[0] == "tokennet")]), []).append(path)
    return result


ROOMS = rooms()


@pytest.mark.parametrize("room", ROOMS)
def test_words_are_those_of_the_field(room):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {phrase!r}, write: {instead}"
        for path in ROOMS[room]
        for line, phrase, instead in sorted(faults(path.read_text(encoding="utf-8"), path.suffix))
    ]
    assert not found, "\n" + "\n".join(found)


def test_all_files_are_read():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "examples", "benchmarks"} <= {
        *ROOMS
    }
    assert "pytest_tokennet.py" in ROOMS
    assert {"tokennet/ops", "tokennet/cli.py", "tokennet/testing"} <= {*ROOMS}
    assert {path.suffix for path in ROOMS["tokennet/ops"]} == {".py", ".cpp", ".h"}


def test_every_phrase_of_the_glossary_is_caught():
    missed = [
        entry.example
        for entry in GLOSSARY
        if entry.instead not in {instead for _, _, instead in faults(entry.example)}
    ]
    assert not missed


def test_other_meanings_are_allowed():
    assert list(faults(ALLOWED)) == []


def test_comments_docstrings_messages_and_nothing_else_is_prose():
    text = '''"""A token
    listens to one."""
    heard = f"{listens} neighbours of {heard}"  # it
    # minds
    raise ValueError("step by "
                     "step", `hears`)
    "a name in backticks: `hears`"
'''
    text = re.sub(r"^    ", "", text, flags=re.M)
    found = sorted((line, phrase) for line, phrase, _ in faults(text, ".py"))
    assert found == [(2, "listens"), (3, "neighbours"), (4, "minds"), (5, "step by step")]
    assert [line for line, *_ in faults("int minds;\n// minds\n/* a\nwitness */", ".cpp")] == [2, 4]
    page = "`hears` and\n```python\nhears = 1  # hears\n```\nhears\n"
    assert [line for line, *_ in faults(page)] == [3, 5]
