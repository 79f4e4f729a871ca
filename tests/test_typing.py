"""What a type checker sees of the package from outside."""

import subprocess
import sys
from typing import get_args

import pytest
import torch

from tokennet.models import TwoTower, list_models, registry
from tokennet.nets import Decoder, EncoderDecoder, MaskedLanguageModel, TokenNet

PROGRAM = """
import torch
from tokennet import Attention, Residual, TokenNet, TokenWise, MeanReadout, Tokens, create_model
from tokennet.nets import Decoder, EncoderDecoder
from tokennet.positional import SinusoidalEncoding

x, tokens = torch.zeros(5, 8), Tokens(torch.zeros(5, 8))
layer, net = Attention(8, num_heads=2), TokenNet([Attention(8, 2)], MeanReadout(8, 2))
reveal_type(layer(x))
reveal_type(layer(tokens))
reveal_type(layer(x, source=x))
reveal_type(Residual(layer)(tokens))
reveal_type(SinusoidalEncoding(8)(tokens))
reveal_type(net(x))
reveal_type(create_model("vit_tiny"))
reveal_type(create_model("gpt2"))
reveal_type(create_model("transformer_base"))
layer("x")
Attention("8")
Attention(8, heads=2)
"""
TENSOR, TOKENS = "torch._tensor.Tensor", "tokennet.tokens.Tokens"
REVEALED = [TENSOR, TOKENS, TENSOR, TOKENS, TOKENS, TENSOR, "tokennet.nets.net.TokenNet"]
REVEALED += ["tokennet.nets.decoder.Decoder", "tokennet.nets.encoder_decoder.EncoderDecoder"]


@pytest.mark.sweep  # mypy reads torch for 20 s
def test_layers_and_nets_have_types(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "program.py"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    revealed = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed" in line]
    assert revealed == REVEALED, done.stdout
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    codes = [line.rpartition("[")[2].rstrip("]") for line in errors]
    assert codes == ["call-overload", "arg-type", "call-arg"], done.stdout


def test_named_nets_have_the_types_they_are_declared_with():
    declared = {
        TokenNet: registry.Encoders, Decoder: registry.Decoders,
        MaskedLanguageModel: registry.Berts, EncoderDecoder: registry.EncoderDecoders,
        TwoTower: registry.Clips,
    }  # fmt: skip
    kinds = {name: kind for kind, names in declared.items() for name in get_args(names)}
    assert {*kinds, "detr"} == set(list_models())
    with torch.device("meta"):
        for name, kind in kinds.items():
            assert type(registry.NETS[name]()) is kind, name
