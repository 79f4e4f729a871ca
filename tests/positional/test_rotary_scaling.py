"""Rotary positions beyond the trained length: against the frequencies of transformers."""

import math

import pytest
import torch

from tokennet import Attention, Causal, Tokens
from tokennet.positional import Rotary

DIM, LENGTH, FACTOR = 16, 64, 8.0


def theirs(scaling):
    """Frequencies, and the factor of cosines and sines."""
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    parameters = {"rope_type": scaling, "factor": FACTOR, "rope_theta": 1e4}
    if scaling != "linear":
        parameters["original_max_position_embeddings"] = LENGTH
    if scaling == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        hidden_size=DIM, num_attention_heads=1, max_position_embeddings=int(LENGTH * FACTOR),
        rope_parameters=parameters,
    )  # fmt: skip
    return utils.ROPE_INIT_FUNCTIONS[scaling](config, "cpu")


@pytest.mark.parametrize("scaling", ["linear", "yarn", "llama3"])
def test_frequencies_are_those_of_hugging_face(scaling):
    frequency, gain = theirs(scaling)
    position = Rotary(interleaved=False, scaling=scaling, factor=FACTOR, original_length=LENGTH)
    x = torch.cat([torch.ones(DIM // 2), torch.zeros(DIM // 2)]).double().view(1, 1, DIM)
    for at in (1, 7, 300):
        cos, sin = position.rotate(x, torch.tensor([[at]])).flatten().chunk(2)
        angle = at * frequency.double()
        torch.testing.assert_close(cos, gain * angle.cos(), rtol=0, atol=1e-4)
        torch.testing.assert_close(sin, gain * angle.sin(), rtol=0, atol=1e-4)


def test_a_larger_base_slows_the_slowest_pair_by_the_factor():
    x = torch.zeros(1, 1, DIM).double()
    x[..., -2] = 1  # the slowest
    plain, scaled = Rotary(), Rotary(scaling="ntk", factor=FACTOR)
    torch.testing.assert_close(
        scaled.rotate(x, torch.tensor([[8.0 * 5]])), plain.rotate(x, torch.tensor([[5.0]]))
    )
    fast = torch.zeros(1, 1, DIM).double()
    fast[..., 0] = 1
    at = torch.tensor([[3.0]])
    torch.testing.assert_close(scaled.rotate(fast, at), plain.rotate(fast, at))
    assert Rotary(channels=2, scaling="ntk", factor=2.0).rotate(x, at).isfinite().all()


def test_it_is_a_position_of_attention():
    position = Rotary(scaling="yarn", factor=4.0, original_length=8)
    layer = Attention(DIM, 2, position=position)
    assert layer(Tokens(torch.randn(9, DIM), Causal(9))).z.isfinite().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scaling": "yarm"}, "scaling must be one of linear, ntk, yarn, llama3; got 'yarm'"),
        ({"scaling": "yarn", "factor": 2.0}, "original_length must be given for scaling='yarn'"),
        ({"factor": 2.0}, "factor must be 1 without scaling, got 2.0"),
        ({"scaling": "linear", "factor": 0.5}, "factor must be at least 1, got 0.5"),
        ({"scaling": "linear", "factor": math.inf}, "factor must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Rotary(**given)
