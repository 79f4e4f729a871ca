"""Models of timm with random weights, `timm:resnet18` or `timm:resnet18(num_classes=3)`.

They are made small where they accept it. Nothing is downloaded.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from tokennet.testing.zoo.expression import name_and_arguments
from tokennet.testing.zoo.source import SETS, Source, ZooModel, generator, package, unknown

SMALL: dict[str, Any] = {"img_size": 64, "depth": 2, "num_blocks": 2, "num_classes": 5}
"""What a model is made with where it accepts it."""


def _make(name: str) -> ZooModel:
    if ":" in name or "/" in name:
        raise ValueError(
            f"model timm:{name} names weights, which would be downloaded: "
            "name an architecture, such as timm:vit_tiny_patch16_224"
        )
    name, own = name_and_arguments(name)
    timm = package("timm")
    if own.get("pretrained"):
        raise ValueError("pretrained must be left out: weights would be downloaded")
    if not timm.is_model(name):
        raise unknown("timm", name, timm.list_models())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _created(timm, name, {**SMALL, **own}).eval()
    size = _image_size(model)
    return ZooModel(model, torch.randn(SETS, *size, generator=generator()))


def _created(timm: Any, name: str, options: dict[str, Any]) -> Any:
    """The model with those options that it accepts."""
    options = dict(options)
    while True:
        try:
            return timm.create_model(name, pretrained=False, **options)
        except TypeError as error:  # an option that it does not have
            found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            named = [option for option in options if found and option == found.group(1)]
            several = [option for option in options if f"'{option}'" in str(error)]
            if not named and not several:
                raise ValueError(f"model timm:{name} cannot be made: {error}") from error
            del options[(named or several)[0]]
        except (AssertionError, ValueError, KeyError) as error:
            if "img_size" not in options:
                raise ValueError(f"model timm:{name} cannot be made: {error}") from error
            del options["img_size"]  # a size that its windows do not divide


def _image_size(model: Any) -> tuple[int, int, int]:
    """The smaller of 64 x 64 and what it was made for, where it accepts that."""
    given = model.default_cfg.get("input_size", (3, 224, 224))
    channels, height = given[0], given[1]
    embed = getattr(model, "patch_embed", None)
    own = getattr(embed, "img_size", None)
    if own is not None:
        height = own[0]
        return channels, own[0], own[1]
    for size in (64, 128, height):
        try:
            with torch.no_grad():
                model(torch.zeros(1, channels, size, size))
        except Exception:  # a size that the model refuses
            continue
        return channels, size, size
    return channels, height, height


SOURCE = Source("any architecture of timm, with random weights", "timm:vit_tiny_patch16_224", _make)
