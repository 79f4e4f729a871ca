"""Ids come as tensors, arrays or lists of any kind of integers; all give the same."""

import numpy as np
import pytest
import torch

from tokennet.models import bert, gpt, transformer

VOCAB = 9
SIZES = {"dim": 8, "depth": 1, "num_heads": 2}


def decoder():
    torch.manual_seed(1)
    return gpt(VOCAB, max_length=12, **SIZES).eval()


ROW = [1, 2, 5]
ONE = {
    "tuple": tuple(ROW),
    "range": range(1, 4),
    "array": np.array(ROW),
    "small array": np.array(ROW, dtype=np.uint16),
    "numpy numbers": list(np.array(ROW)),
    "tensors of one number": list(torch.tensor(ROW)),
    "small tensor": torch.tensor(ROW, dtype=torch.uint8),
    "uint16 tensor": torch.tensor(ROW, dtype=torch.uint16),
}


@pytest.mark.parametrize("kind", ONE)
def test_one_sequence_of_any_kind(kind):
    net, ids = decoder(), ONE[kind]
    expected = torch.tensor([int(i) for i in ids])
    got = net.generate(ids, 4)
    assert torch.equal(got, net.generate(expected, 4))
    assert got.dtype == torch.int64
    assert torch.equal(net(ids), net(expected))
    net = transformer(VOCAB, **SIZES).eval()
    assert torch.equal(net.generate(ids, 0, 4), net.generate(expected, 0, 4))
    net = bert(VOCAB, max_length=12, **SIZES).eval()
    assert torch.equal(net.fill(ids, 2), net.fill(expected, 2))


@pytest.mark.parametrize("beams", [1, 2])
def test_a_batch_is_a_tensor_and_a_list_is_a_list(beams):
    net, batch = decoder(), torch.tensor([ROW, [3, 4, 6]])
    want = net.generate(batch, 4, num_beams=beams)
    assert torch.equal(net.generate(batch.numpy(), 4, num_beams=beams), want)
    rows = net.generate([batch[0].numpy(), batch[1].tolist()], 4, num_beams=beams)
    assert [row.tolist() for row in rows] == want.tolist()


@pytest.mark.parametrize("beams", [1, 2])
def test_no_prompts(beams):
    net = decoder()
    assert net.generate([], 3, num_beams=beams) == []
    for empty in (torch.zeros(0, 4, dtype=torch.long), np.zeros((0, 4), dtype=np.int64)):
        assert net.generate(empty, 3, num_beams=beams).shape == (0, 7)
    translator = transformer(VOCAB, **SIZES).eval()
    assert translator.generate([], 0, 3) == []
    assert translator.generate(torch.zeros(0, 4, dtype=torch.long), 0, 3).shape == (0, 4)
    with pytest.raises(ValueError, match="ids must hold at least one sequence"):
        net([])
    for prompt in ([[1], []], np.zeros(0, dtype=np.int64), torch.zeros(2, 0, dtype=torch.long)):
        with pytest.raises(ValueError, match="prompt must hold at least one id"):
            net.generate(prompt, 3)


@pytest.mark.parametrize("stop", [2, np.int64(2), [2], np.array([2]), torch.tensor(2), (2, 2)])
def test_ends_of_any_kind(stop):
    net = decoder()
    want = net.generate([ROW], 6, eos_token_id=[2])
    assert [r.tolist() for r in net.generate([ROW], 6, eos_token_id=stop)] == [
        r.tolist() for r in want
    ]
    with pytest.raises(ValueError, match="eos_token_id must be integers"):
        net.generate(ROW, 3, eos_token_id=2.5)


def test_starts_of_any_kind():
    net, sources = transformer(VOCAB, **SIZES).eval(), np.array([ROW, ROW])
    want = net.generate(sources, torch.tensor([[0], [1]]), 3)
    assert torch.equal(net.generate(sources, np.array([[0], [1]]), 3), want)
    assert torch.equal(net.generate(sources, [[0], [1]], 3), want)
    assert torch.equal(net.generate(sources, np.int64(0), 3), net.generate(sources, 0, 3))


BAD = [
    (np.array([1.0, 2.0]), ValueError, "prompt must be integers, got torch.float64"),
    ([1.5, 2], ValueError, "prompt must be integers"),
    ([[1, 2], [1.5, 2]], ValueError, r"prompt\[1\] must be integers"),
    ([True, False], ValueError, "prompt must be integers, got torch.bool"),
    (torch.tensor(3), ValueError, "single number, 3"),
    ([[[1, 2]]], ValueError, r"prompt\[0\] must be a sequence of ids"),
    ([np.array([[1, 2]])], ValueError, r"prompt\[0\] must have shape \(N,\), got \(1, 2\)"),
    (3, TypeError, "prompt must be ids: .* got int"),
    (None, TypeError, "got NoneType"),
    ((i for i in ROW), TypeError, "got generator"),
    ("ab", TypeError, "prompt must be ids, got a string"),
    (["ab"], TypeError, r"prompt\[0\] must be ids, got a string"),
    ([1, "b"], TypeError, "prompt must hold integers"),
]


@pytest.mark.parametrize(("prompt", "error", "reason"), BAD)
def test_what_is_no_ids_is_named(prompt, error, reason):
    with pytest.raises(error, match=reason):
        decoder().generate(prompt, 3)
    with pytest.raises(error, match=reason.replace("prompt", "ids")):
        decoder()(prompt)
