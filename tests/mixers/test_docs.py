"""The page of mixers says what the layers say."""

import tokennet
from benchmarks.mixers import LINES, OTHERS, PAGE, formula, honored, make, steps, tables
from tokennet import Mixer, TokenLayer
from tokennet.mixers import MIXERS, SCORES, FixedPatternMixer

TEXT = PAGE.read_text()


def test_tables_are_what_the_layers_say():
    for name, lines in tables().items():
        table = "\n".join(lines)
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->\n" in TEXT


def test_every_mixer_is_on_the_page():
    shown = {type(make(line)) for line in LINES}
    exported = {kind for kind in vars(tokennet.mixers).values() if isinstance(kind, type)}
    mixers = {kind for kind in exported if issubclass(kind, Mixer)} - {Mixer, FixedPatternMixer}
    assert shown == mixers
    assert {type(build(8, 2, 16)) for build in MIXERS.values()} <= shown
    for name in MIXERS:
        assert f"`{name}`" in TEXT, name
    for name in SCORES:
        assert f'`"{name}"`' in TEXT, name


def test_other_layers_are_no_mixers():
    for line in OTHERS:
        layer = make(line)
        assert isinstance(layer, TokenLayer)
        assert not isinstance(layer, Mixer)


def test_a_formula_is_that_of_the_docstring_or_its_first_line():
    by_name = {type(make(line)).__name__: formula(make(line)) for line in [*LINES, *OTHERS]}
    assert by_name["Pooling"] == "`out_i = mean_{j -> i} z_j - z_i`"
    assert by_name["CrossAttention"].startswith("Attention to another set only")
    assert by_name["Recurrence"].count("<br>") >= 3
    assert not any("Error" in found or ">>>" in found for found in by_name.values())


def test_what_is_asked_of_a_layer_can_be_denied():
    by_name = {line.code.partition("(")[0]: make(line) for line in LINES}
    assert honored(by_name["Attention"]) == "any"
    assert honored(by_name["HyperMixer"]) == "complete"
    assert steps(by_name["Attention"]) == "yes"
    assert steps(by_name["HyperMixer"]) == "no"
