"""Variants of nets in their names: "attention:cosine@full", "gat:rms:depth=4:lr=0.001@grid"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from tokennet.checks import check_number, check_size, lookup
from tokennet.mixers import SCORES, Attention, Mixer
from tokennet.nets import Affine, BatchNorm, BlockConfig, MixtureOfExperts, mlp

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm, "batch": BatchNorm, "rms": nn.RMSNorm, "affine": Affine,
}  # fmt: skip
EXPERTS = 4
"""Of "moe"; each token uses two."""
Options = tuple[tuple[str, Any], ...]

_size, _number = partial(check_size, minimum=1), partial(check_number, low=0)
TRAINING: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "depth": ("depth", partial(check_size, minimum=0)), "heads": ("num_heads", _size),
    "mlp_ratio": ("mlp_ratio", _number), "epochs": ("epochs", _size), "lr": ("lr", _number),
    "dropout": ("dropout", _number), "weight_decay": ("weight_decay", _number),
    "warmup": ("warmup", _number),
}  # fmt: skip
"""Names that change the `TrainConfig` of a net: the field, and the check of the value."""
WORDS: dict[str, tuple[str, Any]] = {
    **{name: ("score", name) for name in SCORES},
    **{name: ("norm", name) for name in NORMS},
    "moe": ("experts", EXPERTS),
    "post": ("post_norm", True),
}
"""What stands without a value."""


def read_options(mixer: str, words: list[str]) -> Options:
    """The options behind a mixer: words such as "cosine", and names with values.

    Raises:
        ValueError: an unknown word or name, or a value that does not fit.

    >>> read_options("attention", ["cosine", "depth=4"])
    (('score', 'cosine'), ('depth', 4))
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            name, value = lookup("option", word, WORDS, also=f"or {_names()}")
        elif name in ("score", "norm"):
            value = text
            lookup(name, value, SCORES if name == "score" else NORMS)
        else:
            experts: tuple[str, Callable[..., Any]] = ("", partial(check_size, minimum=2))
            known = {**TRAINING, "experts": experts}
            _, check = lookup("option", name, known, also="score, norm")
            try:
                value = check(name, _parsed(name, text))
            except TypeError as error:
                raise ValueError(str(error)) from error
        if name in found:
            raise ValueError(f"option {name} must be given once, got {word!r} too")
        found[name] = value
    if "score" in found and mixer != "attention":
        raise ValueError(f"option score is of attention, got {found['score']!r} for {mixer}")
    return tuple(found.items())


def _names() -> str:
    return ", ".join(f"{name}=" for name in ("score", "norm", "experts", *TRAINING))


def _parsed(name: str, text: str) -> float:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"option {name} must be a number, got {text!r}") from None


def written(options: Options) -> str:
    """As in the name of the net; `read_options` reads it."""
    words = {pair: word for word, pair in WORDS.items()}
    return "".join(f":{words.get((name, v), f'{name}={v}')}" for name, v in options)


def training_of(options: Options) -> dict[str, Any]:
    """The changes of the `TrainConfig`."""
    return {TRAINING[name][0]: value for name, value in options if name in TRAINING}


def mixer_of(mixer: str, options: Options) -> str | Callable[..., Mixer]:
    """What `build_net` makes mixers of."""
    score = dict(options).get("score")
    if score is None:
        return mixer
    return lambda dim, num_heads, num_tokens: Attention(dim, num_heads, score=score)


def blocks_of(options: Options) -> BlockConfig:
    """Norms, and experts in place of the token-wise MLPs."""
    given = dict(options)
    norm, count = NORMS[given.get("norm", "layer")], given.get("experts")
    tokenwise = None if count is None else partial(_experts, count)
    return BlockConfig(bool(given.get("post_norm")), norm, tokenwise=tokenwise)


def _experts(count: int, dim: int, hidden: int | None) -> MixtureOfExperts:
    return MixtureOfExperts(dim, count, 2, expert=lambda: mlp(dim, hidden))
