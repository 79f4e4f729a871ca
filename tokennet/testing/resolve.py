"""Models and examples by name, for `tokennet check`: `module:object`, or of the zoo."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

import torch
from torch import nn

from tokennet.testing.example.inputs import parameters_of
from tokennet.testing.zoo import ZooModel, is_zoo_name, make_zoo_model
from tokennet.testing.zoo.source import unknown


def resolve(name: str, what: str) -> Any:
    """The object `module:object`, the module being installed or in the working folder.

    Args:
        what: what it is for, for messages.

    Raises:
        ValueError: the name has no such form, or there is no such module or object.

    >>> resolve("torch.nn:Linear", "model").__name__
    'Linear'
    """
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise ValueError(f"{what} must be module:object, got {name!r}")
    if "/" in module_name or module_name.endswith(".py"):
        stem = module_name.rpartition("/")[2].removesuffix(".py")
        raise ValueError(f"{what} {name!r}: write {stem}:{path}, in the folder of that file")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{what} {name!r}: {error}") from error
    except Exception as error:  # whatever a file of the user's raises
        raise ValueError(f"{what} {name!r}: {type(error).__name__}: {error}") from error
    owner = module_name
    for part in path.split("."):
        if not part.isidentifier():
            raise ValueError(f"{what} {name!r}: {part!r} is no name of an object in {owner}")
        if not hasattr(found, part):
            raise unknown(f"{what} {name!r}: {owner}", part, dir(found))
        found, owner = getattr(found, part), f"{owner}.{part}"
    return found


def resolve_subject(name: str, example: str | None) -> ZooModel:
    """A model with its example: of the zoo, or `module:object` with an example by name.

    Raises:
        ValueError, ImportError: as `make_zoo_model`, `resolve_model` and `resolve_example`.
    """
    if not is_zoo_name(name):
        model = resolve_model(name)
        return ZooModel(model, resolve_example(example, model))
    subject = make_zoo_model(name)
    if example is None:
        return subject
    return ZooModel(subject.model, resolve_example(example, subject.model))


def resolve_model(name: str) -> Any:
    """A model by name: a module or function, or a class without arguments.

    Raises:
        ValueError: as `resolve`, or it is not callable, or the class needs arguments.
    """
    found = resolve(name, "model")
    if not callable(found):
        raise ValueError(f"model {name!r} must be callable, got {type(found).__name__}")
    if not inspect.isclass(found):
        return found
    try:
        return found()
    except TypeError as error:
        raise ValueError(
            f"model {name!r} needs arguments ({error}): "
            "name an instance, or a class without arguments"
        ) from error
    except Exception as error:  # whatever a class of the user's raises
        raise ValueError(f"model {name!r}: {type(error).__name__}: {error}") from error


def resolve_example(name: str | None, model: Any) -> Any:
    """An example by name; without one a set of random tokens of the width that the model accepts.

    A function is called to make the example.

    Raises:
        ValueError: as `resolve`, or there is no name and no width to be found.
    """
    if name is not None:
        found = resolve(name, "example")
        if inspect.isclass(found):
            raise ValueError(
                f"example {name!r} is a class: name a value, or a function that makes it"
            )
        return found() if inspect.isfunction(found) else found
    dim = _width(model)
    generator = torch.Generator().manual_seed(0)
    if "edge_index" in parameters_of(model):
        edges = torch.randint(0, 9, (2, 24), generator=generator)
        return torch.randn(9, dim, generator=generator), edges
    return torch.randn(3, 7, dim, generator=generator)


def _width(model: Any) -> int:
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, nn.Embedding):
            break
        for attribute in ("in_features", "in_channels", "input_size", "embed_dim", "dim"):
            width = getattr(module, attribute, None)
            if isinstance(width, int):
                return width
        if isinstance(module, nn.LayerNorm):
            return module.normalized_shape[-1]
    raise ValueError("example is needed: no layer of the model says how wide its tokens are")
