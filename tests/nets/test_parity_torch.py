"""Transformers of torch.nn and nets of layers: the same weights, values and gradients."""

import pytest
import torch
from torch import nn

from tests.peers import parity, randomized
from tokennet import Attention, Causal, Convolution, Full, Tokens
from tokennet.interop import from_torch
from tokennet.interop.copy import Copier
from tokennet.models import create_model

DIM, HEADS, HIDDEN, DEPTH = 16, 4, 24, 2
B, N, M = 2, 7, 5
TIGHT = 1e-12
DRESS = [
    {"norm_first": False, "activation": "relu"},
    {"norm_first": True, "activation": "gelu"},
    {"norm_first": True, "activation": nn.SiLU(), "bias": False},
]


def options(dress):
    return {"dim_feedforward": HIDDEN, "batch_first": True, "dropout": 0.1, **dress}


def causal_mask(n):
    return nn.Transformer.generate_square_subsequent_mask(n, dtype=torch.float64)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dress", DRESS, ids=str)
def test_encoder(dress, causal, hold):
    layer = nn.TransformerEncoderLayer(DIM, HEADS, **options(dress))
    norm = nn.LayerNorm(DIM, eps=1e-3) if dress["norm_first"] else None
    theirs = randomized(nn.TransformerEncoder(layer, DEPTH, norm, enable_nested_tensor=False))
    z = torch.randn(B, N, DIM, dtype=torch.float64)
    graph, mask = (Causal(N), causal_mask(N)) if causal else (Full(N), None)
    found = parity(
        from_torch, theirs, lambda net: net(Tokens(z, graph)).z, lambda net: net(z, mask=mask)
    )
    hold("encoder", "torch.nn.TransformerEncoder", found, TIGHT)


def test_padding_is_a_ragged_batch():
    layer = nn.TransformerEncoderLayer(DIM, HEADS, **options(DRESS[0]))
    theirs = randomized(nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False))
    sizes = [7, 3, 5]
    z = torch.randn(3, max(sizes), DIM, dtype=torch.float64)
    padding = torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]
    want = theirs(z, src_key_padding_mask=padding)
    sets = [Tokens(row[:size]) for row, size in zip(z, sizes, strict=True)]
    got = from_torch(theirs)(Tokens.batch(sets)).unbatch()
    for ours, row, size in zip(got, want, sizes, strict=True):
        torch.testing.assert_close(ours.z, row[:size], rtol=TIGHT, atol=TIGHT)


@pytest.mark.parametrize("dress", DRESS, ids=str)
def test_decoder(dress, hold):
    layer = nn.TransformerDecoderLayer(DIM, HEADS, **options(dress))
    theirs = randomized(nn.TransformerDecoder(layer, DEPTH, nn.LayerNorm(DIM)))
    z, source = (torch.randn(B, size, DIM, dtype=torch.float64) for size in (N, M))
    found = parity(
        from_torch,
        theirs,
        lambda net: net(Tokens(z, Causal(N)), source).z,
        lambda net: net(z, source, tgt_mask=causal_mask(N)),
    )
    hold("decoder_stack", "torch.nn.TransformerDecoder", found, TIGHT)


@pytest.mark.parametrize("dress", DRESS[:2], ids=str)
def test_whole_transformer(dress, hold):
    theirs = randomized(nn.Transformer(DIM, HEADS, 2, 1, **options(dress)))
    source, target = (torch.randn(B, size, DIM, dtype=torch.float64) for size in (M, N))
    found = parity(
        from_torch,
        theirs,
        lambda net: net(Tokens(source), Tokens(target, Causal(N))).z,
        lambda net: net(source, target, tgt_mask=causal_mask(N)),
    )
    hold("transformer", "torch.nn.Transformer", found, TIGHT)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_net(cell, hold):
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]

    class Peer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.cells = nn.Linear(3, DIM), kind(DIM, DIM, DEPTH, batch_first=True)
            self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 2)

        def forward(self, z):
            return self.head(self.norm(self.cells(self.embed(z))[0]))

    def convert(theirs):
        ours = create_model(
            "gru", in_features=3, out_features=2, dim=DIM, depth=DEPTH, cell=cell
        ).double()
        ours.layers[0].fn.load_state_dict(theirs.embed.state_dict())
        ours.layers[1].cells.load_state_dict(theirs.cells.state_dict())
        ours.readout.norm.load_state_dict(theirs.norm.state_dict())
        ours.readout.head.load_state_dict(theirs.head.state_dict())
        return ours

    z = torch.randn(B, N, 3, dtype=torch.float64)
    found = parity(convert, randomized(Peer()), lambda net: net(z), lambda net: net(z))
    hold("rnn", f"torch.nn.{kind.__name__}", found, TIGHT, of="layers")


class TemporalBlock(nn.Module):
    """As in the paper: padded on both sides, what follows the end is cut off."""

    def __init__(self, dilation):
        super().__init__()
        self.padding = 2 * dilation  # (kernel_size - 1) dilation
        self.convs = nn.ModuleList(
            nn.Conv1d(DIM, DIM, 3, padding=self.padding, dilation=dilation) for _ in range(2)
        )

    def forward(self, x):  # (B, D, N)
        out = x
        for conv in self.convs:
            out = conv(out)[..., : -self.padding].relu()
        return (x + out).relu()


class TemporalNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv1d(3, DIM, 1)
        self.blocks = nn.ModuleList(TemporalBlock(2**number) for number in range(DEPTH))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 2)

    def forward(self, z):
        x = self.embed(z.mT)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mT))


def temporal(theirs):
    ours = create_model("tcn", in_features=3, out_features=2, dim=DIM, depth=DEPTH).double()
    copy = Copier()
    copy.weight(ours.layers[0].fn, theirs.embed.weight.squeeze(-1), theirs.embed.bias)
    for layer, block in zip(ours.layers[1:], theirs.blocks, strict=True):
        for mine, conv in zip(layer.layer.layers[::2], block.convs, strict=True):
            copy.weight(mine.conv, conv.weight, conv.bias)
    copy.norm(ours.readout.norm, theirs.norm)
    copy.linear(ours.readout.head, theirs.head)
    return ours


def test_temporal_convolutional_net(hold):
    z = torch.randn(B, 12, 3, dtype=torch.float64)
    theirs = randomized(TemporalNet())
    found = parity(temporal, theirs, lambda net: net(z), lambda net: net(z))
    hold("tcn", "torch.nn.Conv1d, as Bai et al. have it", found, TIGHT, of="layers")


def test_a_temporal_convolutional_net_takes_normalized_filters():
    theirs = randomized(TemporalNet())
    ours, z = temporal(theirs), torch.randn(B, 12, 3, dtype=torch.float64)
    for conv in [mixer.conv for mixer in ours.modules() if isinstance(mixer, Convolution)]:
        nn.utils.parametrizations.weight_norm(conv)
    torch.testing.assert_close(ours(z), theirs(z), rtol=TIGHT, atol=TIGHT)


def test_attention_and_what_is_refused():
    theirs = randomized(nn.MultiheadAttention(DIM, HEADS, batch_first=True))
    ours, z = from_torch(theirs), torch.randn(B, N, DIM, dtype=torch.float64)
    assert isinstance(ours, Attention)
    want, _ = theirs(z, z, z, need_weights=False)
    torch.testing.assert_close(ours(z), want, rtol=TIGHT, atol=TIGHT)
    with pytest.raises(TypeError, match="module must be one of MultiheadAttention"):
        from_torch(nn.Linear(2, 2))
    for bad in ({"kdim": 3, "vdim": 3}, {"add_bias_kv": True}, {"add_zero_attn": True}):
        with pytest.raises(ValueError, match="keys and values of embed_dim"):
            from_torch(nn.MultiheadAttention(DIM, HEADS, **bad))
    layer = nn.TransformerEncoderLayer(DIM, HEADS, 16, activation=nn.PReLU(), batch_first=True)
    with pytest.raises(ValueError, match="norm of the model must be LayerNorm, got RMSNorm"):
        from_torch(nn.TransformerEncoder(layer, 1, nn.RMSNorm(DIM), enable_nested_tensor=False))
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    from_torch(encoder)
    encoder.layers[0].gate = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"no parameter besides .*, got layers\.0\.gate"):
        from_torch(encoder)


def test_it_is_a_copy_in_the_same_mode():
    layer = nn.TransformerEncoderLayer(DIM, HEADS, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 1).double().train()
    ours = from_torch(theirs)
    assert ours.training
    assert next(ours.parameters()).dtype == torch.float64
    before = ours.layers[0].layer.out.weight.clone()
    theirs.layers[0].self_attn.out_proj.weight.data.zero_()
    assert torch.equal(ours.layers[0].layer.out.weight, before)
