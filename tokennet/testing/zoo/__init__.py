"""Models of other libraries by name: small, random, with an example, and without a download.

`SOURCES` has a source for each prefix of a name. To add one: a file here, a line in `SOURCES`.
"""

from tokennet.checks import lookup
from tokennet.testing.zoo.hugging_face import SOURCE as HUGGING_FACE
from tokennet.testing.zoo.pyg import SOURCE as PYG
from tokennet.testing.zoo.source import Source, ZooModel
from tokennet.testing.zoo.timm_models import SOURCE as TIMM
from tokennet.testing.zoo.torch_nn import SOURCE as TORCH

SOURCES: dict[str, Source] = {"hf-tiny": HUGGING_FACE, "timm": TIMM, "pyg": PYG, "torch": TORCH}


def is_zoo_name(name: str) -> bool:
    """Whether a name starts with the prefix of a source and is not a module in Python.

    >>> is_zoo_name("timm:vit_tiny_patch16_224"), is_zoo_name("models:Mean")
    (True, False)
    """
    return name.partition(":")[0] in SOURCES and ":" in name


def make_zoo_model(name: str) -> ZooModel:
    """The model of a name such as `pyg:SGFormer`.

    Raises:
        ValueError: there is no such source or model, or it would need weights.
        ImportError: a package that it needs is not installed; the message names it.

    >>> make_zoo_model("torch:nn.Linear(4, 2)").example.shape
    torch.Size([3, 7, 4])
    """
    prefix, _, rest = name.partition(":")
    source = lookup("source", prefix, SOURCES)
    if not rest.strip() or rest.strip()[0].isdigit():
        raise ValueError(f"model must be {prefix}:name, such as {source.shown}; got {name!r}")
    return source.make(rest.strip())


__all__ = ["SOURCES", "Source", "ZooModel", "is_zoo_name", "make_zoo_model"]
