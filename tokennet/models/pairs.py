"""Nets of two sets: `question_net` and `detr`, whose queries attend to an image, and `clip`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tokennet.checks import checked
from tokennet.graphs import Causal
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention
from tokennet.models.detection import SetPrediction
from tokennet.models.transformers import decoder_stack, encoder_stack
from tokennet.models.two_tower import TwoTower
from tokennet.models.vision import vit
from tokennet.nets.block import QuickGELU, TokenWise
from tokennet.nets.compose import WithGraph, complete
from tokennet.nets.config import BlockConfig
from tokennet.nets.embedding import Embedding
from tokennet.nets.encoder_decoder import EncoderDecoder
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import ClassTokenReadout, make_readout
from tokennet.nets.text import TextNet
from tokennet.positional import LearnedEncoding, SinusoidalEncoding


@checked()
def question_net(
    in_features: int = 3 * 8 * 8,
    vocab: int = 100,
    out_features: int = 20,
    dim: int = 128,
    depth: int = 2,
    num_heads: int = 4,
    *,
    max_length: int = 32,
    readout: str = "mean",
) -> EncoderDecoder:
    """A question attends to the patches of an image: `net(patches, question)` to an answer.

    Patches have positions (row and column); the question is ids.

    >>> import torch
    >>> from tokennet import Tokens
    >>> positions = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0))
    >>> net = question_net(in_features=6, vocab=10, out_features=3, dim=8)
    >>> net(Tokens(torch.zeros(2, 4, 6), pos=positions), torch.tensor([[1, 2, 3], [4, 5, 6]])).shape
    torch.Size([2, 3])
    """
    image = _image_encoder(in_features, dim, depth, num_heads)
    question: list[TokenLayer | TokenNet] = [
        Embedding(vocab, dim),
        LearnedEncoding(dim, max_length),
        decoder_stack(dim, depth, num_heads, final_norm=False),
    ]
    answer = make_readout(readout, dim, out_features)
    return EncoderDecoder(image, TextNet(question, answer, max_length=max_length))


@checked(depth=0, hidden=0, image_depth=0, image_hidden=0)
def clip(
    in_features: int = 3 * 32 * 32,
    vocab: int = 49_408,
    num_tokens: int | tuple[int, ...] | None = 49,
    dim: int = 512,
    depth: int = 12,
    num_heads: int = 8,
    *,
    hidden: int | None = None,
    image_dim: int = 768,
    image_depth: int | None = None,
    image_heads: int = 12,
    image_hidden: int | None = None,
    out_features: int | None = None,
    max_length: int = 77,
    activation: Callable[[], nn.Module] = QuickGELU,
) -> TwoTower:
    """Text-image matching (Radford et al., 2021, arXiv 2103.00020): a tower for each.

    The image tower is a vision transformer with a norm before its blocks, the text tower a
    causal transformer whose output is read from the last token: a text ends with its end token,
    without padding.

    Args:
        dim: of the text tower, as depth, num_heads and hidden; `image_depth` is `depth` by default.
        out_features: channels that both towers return, `dim` by default.

    >>> import torch
    >>> sizes = {"dim": 8, "depth": 1, "num_heads": 2, "image_dim": 12, "image_heads": 2}
    >>> net = clip(6, vocab=10, num_tokens=4, **sizes)
    >>> net(torch.zeros(2, 4, 6), [[1, 2, 3], [4, 5], [6]]).shape
    torch.Size([2, 3])
    """
    out_features = dim if out_features is None else out_features
    image_depth = depth if image_depth is None else image_depth
    config = BlockConfig(activation=activation)
    text: list[TokenLayer | TokenNet] = [Embedding(vocab, dim), LearnedEncoding(dim, max_length)]
    text += config.stack(lambda: [Attention(dim, num_heads)], dim, depth, hidden)
    sizes = in_features, out_features, num_tokens, image_dim, image_depth, image_heads
    image: Any = vit(*sizes, hidden=image_hidden, config=config)
    image.layers[1].fn = nn.Linear(in_features, image_dim, bias=False)
    image.layers.insert(4, TokenWise(nn.LayerNorm(image_dim)))  # after the positional encoding
    image.readout.head = nn.Linear(image_dim, out_features, bias=False)
    readout = ClassTokenReadout(dim, out_features, index=-1)
    readout.head = nn.Linear(dim, out_features, bias=False)
    return TwoTower(image, TextNet(text, readout, graph=Causal, max_length=max_length))


@checked(depth=0, hidden=0)
def detr(
    in_features: int = 3 * 16 * 16,
    classes: int = 91,
    queries: int = 100,
    dim: int = 256,
    depth: int = 6,
    num_heads: int = 8,
    *,
    hidden: int | None = 2048,
    config: BlockConfig | None = None,
) -> SetPrediction:
    """DETR, objects of an image as a set (Carion et al., 2020, arXiv 2005.12872).

    Patches with positions (row and column) replace the paper's convolutional net, and learned
    queries are the tokens themselves, not positional encodings that are added in each layer.

    >>> import torch
    >>> from tokennet import Tokens
    >>> positions = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0))
    >>> net = detr(in_features=6, classes=3, queries=5, dim=8, depth=1, num_heads=2, hidden=16)
    >>> prediction = net(Tokens(torch.zeros(2, 4, 6), pos=positions))
    >>> prediction.logits.shape, prediction.boxes.shape
    (torch.Size([2, 5, 4]), torch.Size([2, 5, 4]))
    """
    config = config or BlockConfig(post_norm=True, activation=nn.ReLU)
    image = _image_encoder(in_features, dim, depth, num_heads, hidden, config)
    decoder = decoder_stack(dim, depth, num_heads, hidden, config)
    return SetPrediction(image, decoder, dim, queries, classes)


def _image_encoder(in_features: int, dim: int, *sizes: Any) -> TokenNet:
    """From patches with positions (row and column) to tokens; sizes as for `encoder_stack`."""
    embed = TokenWise(nn.Linear(in_features, dim))
    positions = SinusoidalEncoding(dim, "pos", num_coordinates=2)
    blocks = encoder_stack(dim, *sizes)
    return TokenNet([WithGraph(complete), embed, positions, blocks])
