"""Ids, vocabularies kept in files, and byte pairs against the algorithm written out."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tokennet import Causal, Tokens, TokenWise
from tokennet.testing import check_declared
from tokennet.tokenizers import BPE, Bytes, Characters

CORPUS = ["low lower lowest", "new newer newest", "wide wider widest ", "low\nnew, wide!"] * 3
SPECIAL = ("[MASK]", "[END]")
MADE = {
    "characters": lambda: Characters.from_text("".join(CORPUS) + "[MASK]", SPECIAL),
    "bytes": lambda: Bytes(special_tokens=SPECIAL),
    "bpe": lambda: BPE.train(CORPUS, 280, SPECIAL),
}


@given(text=st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back(text):
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair is no text
        return
    for tokenizer in (Bytes(), ANY_BPE, Characters.from_text(text)):
        assert tokenizer.decode(tokenizer.encode(text)) == text


ANY_BPE = BPE.train(CORPUS, 280)


@pytest.mark.parametrize("name", MADE)
def test_special_tokens_come_last_and_only_by_id(name):
    tokenizer = MADE[name]()
    ids = [tokenizer.token_to_id(token) for token in SPECIAL]
    assert ids == [tokenizer.vocab_size - 2, tokenizer.vocab_size - 1]
    written = tokenizer.encode("low [MASK]")
    assert not set(ids) & set(written.tolist())
    assert tokenizer.decode(written) == "low [MASK]"
    put_in = torch.cat([tokenizer.encode("low "), torch.tensor(ids)])
    assert tokenizer.decode(put_in) == "low [MASK][END]"


@pytest.mark.parametrize("name", MADE)
def test_single_tokens_have_an_id(name):
    tokenizer = MADE[name]()
    assert tokenizer.encode("l").tolist() == [tokenizer.token_to_id("l")]
    assert tokenizer.decode([tokenizer.token_to_id("l")]) == "l"
    with pytest.raises(ValueError, match="token must be"):
        tokenizer.token_to_id("low lower")


@pytest.mark.parametrize("name", MADE)
def test_vocabularies_are_kept(name, tmp_path):
    tokenizer = MADE[name]()
    path = tmp_path / "vocabulary.json"
    tokenizer.save(path)
    again = type(tokenizer).load(path)
    assert again.vocab_size == tokenizer.vocab_size
    for text in [*CORPUS, "wide [MASK]"]:
        assert torch.equal(again.encode(text), tokenizer.encode(text))
    assert type(again(CORPUS[0]).graph) is Causal
    json.loads(path.read_text())


def test_another_kind_of_vocabulary_is_refused(tmp_path):
    Bytes().save(tmp_path / "bytes.json")
    with pytest.raises(ValueError, match="path must hold a saved Characters"):
        Characters.load(tmp_path / "bytes.json")
    MADE["bpe"]().save(tmp_path / "bpe.json")
    with pytest.raises(ValueError, match="path must hold a saved Bytes"):
        Bytes.load(tmp_path / "bpe.json")


@pytest.mark.parametrize("name", MADE)
def test_ids_of_batches_are_decoded_to_lists(name):
    tokenizer = MADE[name]()
    rows = torch.stack([tokenizer.encode("low new"), tokenizer.encode("low new").flip(0)])
    first, second = tokenizer.decode(rows)
    assert first == "low new"
    assert [first, second] == [tokenizer.decode(row) for row in rows]
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(tokenizer.encode("")) == ""


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(
    ("ids", "says"),
    [([-1], "0 .. "), ([0, 10_000], "10000"), ([0.5], "integers"), (torch.tensor(3), "integers")],
)
def test_ids_that_are_none_are_refused(name, ids, says):
    with pytest.raises(ValueError, match=f"ids must be.*{says}"):
        MADE[name]().decode(ids)


@pytest.mark.parametrize("name", ["characters", "bytes"])
def test_texts_in_a_row_are_ids_in_a_row(name):
    tokenizer = MADE[name]()
    both = torch.cat([tokenizer.encode("low "), tokenizer.encode("newer")])
    assert torch.equal(tokenizer.encode("low newer"), both)


def test_bytes_that_are_no_text_are_replaced():
    assert Bytes().decode([195, 40]) == "\ufffd("


def merged(word: bytes, ranks: dict) -> list[bytes]:
    """Sennrich et al., 2016: merge the pair that was learned first, until none is left."""
    parts = [bytes([byte]) for byte in word]
    while True:
        pairs = [(ranks.get(pair, 10**9), k) for k, pair in enumerate(pairwise(parts))]
        rank, place = min(pairs, default=(10**9, 0))
        if rank == 10**9:
            return parts
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def test_byte_pairs_are_merged_in_the_order_learned(tmp_path):
    bpe = BPE.train(CORPUS, 275)
    assert bpe.vocab_size == 275
    bpe.save(tmp_path / "bpe.json")
    listed = json.loads((tmp_path / "bpe.json").read_text())["model"]["merges"]
    as_bytes = [tuple(part.replace("Ġ", " ").encode() for part in pair) for pair in listed]
    ranks = {pair: rank for rank, pair in enumerate(as_bytes)}
    assert len(ranks) == 275 - 256
    for word in ("low", " lowest", " newest", " wider", "unseen", " wildest"):
        got = [bpe.decode([i]).encode() for i in bpe.encode(word)]
        assert got == merged(word.encode(), ranks)


def test_byte_pairs_shorten_what_they_were_trained_on():
    bpe = BPE.train(CORPUS, 290)
    text = CORPUS[0]
    assert len(bpe.encode(text)) < 0.5 * len(Bytes().encode(text))
    more = BPE.train("".join(CORPUS), 270, graph=lambda n: Causal(n))
    assert len(bpe.encode(text)) < len(more.encode(text))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"tokennet\[tokenizers\]"):
        BPE.train(["a"], 300)


def test_hugging_face_reads_the_file(tmp_path):
    transformers = pytest.importorskip("transformers")
    bpe = MADE["bpe"]()
    bpe.save(tmp_path / "tokenizer.json")
    peer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in CORPUS:
        assert peer(text)["input_ids"] == bpe.encode(text).tolist()


def test_ids_stay_ids_whatever_type_tokens_move_to():
    tokens = Bytes()("to be")
    moved = tokens.to(torch.bfloat16)
    assert moved.z.dtype == torch.long
    assert moved.pos.dtype == torch.long
    assert torch.equal(moved.z, tokens.z)
    places = Tokens(tokens.z, pos=tokens.pos.float()).to(torch.float64)
    assert places.pos.dtype == torch.float64


def test_an_embedding_of_ids_is_token_wise():
    table = nn.Embedding(256, 6)
    embed = TokenWise(lambda ids: table(ids[..., 0]))
    embed.table = table
    assert check_declared(embed, Bytes()("to be or not"), discover=False).holds


@pytest.mark.data
def test_shakespeare_comes_back():
    text = (Path(os.environ["TOKENNET_DATA"]) / "tinyshakespeare" / "input.txt").read_text()
    characters = Characters.from_text(text)
    assert characters.vocab_size == 65
    text = text[:100_000]
    bpe = BPE.train(text.splitlines(keepends=True), 512)
    assert bpe.vocab_size == 512
    for tokenizer in (characters, Bytes(), bpe):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
    assert len(bpe.encode(text)) < 0.6 * len(text)
    scenes = [text[:100], text[500:650]]
    assert characters.inverse(characters(scenes)) == scenes
