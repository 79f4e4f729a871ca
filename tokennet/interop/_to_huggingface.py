"""`to_huggingface`: a net of layers, with its weights, as a model of transformers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from tokennet.checks import check_type
from tokennet.interop._from_huggingface import CONVERTERS
from tokennet.interop.copy import Copier
from tokennet.interop.verify import verified


def to_huggingface(
    net: nn.Module,
    model: Any,
    *,
    verify: bool = True,
    verify_dtype: torch.dtype = torch.float64,
) -> Any:
    """A model of Hugging Face with the weights of a net: the way back of `from_huggingface`.

    Use it to save, share or serve what was trained with this library: `gpt` as a
    `GPT2LMHeadModel`, `vit` as a `ViTForImageClassification`, and so on for every class that
    `from_huggingface` accepts. Copies of both are run on random inputs and compared.

    Args:
        net: made by `from_huggingface`, or of the same layers.
        model: a model of the sizes of the net, with any weights, made from a configuration. It
            stays as it is: a copy of it gets the weights.
        verify: whether both are compared.
        verify_dtype: as for `from_torch`.

    Returns:
        The copy, in the type, on the device and in the mode of `net`.

    Raises:
        TypeError: another kind of model.
        ValueError: the net has other parameters than such a model, or gives other outputs.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from tokennet.models import gpt
    >>> sizes = {"vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    >>> net = gpt(vocab=9, dim=8, depth=1, num_heads=2, max_length=8).eval()
    >>> ids = torch.tensor([[1, 2, 3]])
    >>> model = to_huggingface(net, GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0)))
    >>> bool((net(ids) - model(ids).logits).abs().max() < 1e-5)
    True
    """
    check_type("net", net, nn.Module, "a net of layers")
    kind, package = type(model).__name__, type(model).__module__.partition(".")[0]
    if kind not in CONVERTERS or package != "transformers":
        raise TypeError(f"model must be one of {', '.join(CONVERTERS)}; got {kind}")
    like = next(net.parameters())
    model = deepcopy(model).to(like.device, like.dtype).train(net.training)
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        copier = Copier()
        twin = CONVERTERS[kind].build(model, copier)
        _check_same(net, twin, kind)
        _write(net, twin, copier)
        if verify:
            pairs = [
                (net.get_submodule(_path(twin, ours)), theirs) for ours, theirs in copier.pairs
            ]
            dtype = CONVERTERS[kind].dtype or verify_dtype
            verified("model", model, net, CONVERTERS[kind].runs, pairs, dtype)
    return model


def _check_same(net: nn.Module, twin: nn.Module, kind: str) -> None:
    mine, theirs = ({n: tuple(p.shape) for n, p in x.named_parameters()} for x in (net, twin))
    for name in {**theirs, **mine}:
        if mine.get(name) != theirs.get(name):
            raise ValueError(
                f"net must have the parameters of a {kind} of these sizes: {name} must be "
                f"{theirs.get(name, 'missing')}, got {mine.get(name, 'none')}"
            )


def _write(net: nn.Module, twin: nn.Module, copier: Copier) -> None:
    """The weights of the net to where those of its twin were copied from."""
    own = dict(net.named_parameters())
    names = {id(parameter): name for name, parameter in twin.named_parameters()}
    for to, value in copier.copied:
        value.detach().copy_(own[names[id(to)]].detach())
    for ours, norm in copier.norms:
        path = _path(twin, ours)
        eps: Any = net.get_submodule(path).eps
        if norm.eps != eps:
            raise ValueError(
                f"model must be of a configuration whose norms have eps = {eps}, as {path} of the "
                f"net, got {norm.eps}"
            )


def _path(whole: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in whole.named_modules() if module is part)
