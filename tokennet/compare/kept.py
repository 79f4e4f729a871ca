"""What is kept of a run beside its numbers: the parameters, and the answers on the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from torch import Tensor, nn

from tokennet._files import write_bytes
from tokennet.checks import require

MODEL, ANSWERS = "model.safetensors", "answers.safetensors"
MOST_NUMBERS = 4_000_000
"""Answers of more numbers are not kept; the rows of metrics are."""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into; its files come to `folder` complete, though others write there."""
    unfinished = folder.with_name(f".{folder.name}.{uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        shutil.copytree(unfinished, folder, copy_function=os.replace, dirs_exist_ok=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_kept(net: nn.Module, answers: dict[str, Tensor], folder: Path) -> None:
    """Write `model.safetensors` and `answers.safetensors`.

    The answers are "index" (n,), the numbers of the examples of the test; "target" (n, ...); the
    rows (n, ...) of each metric by its name; and "answer" (n, ...), where these are not too many
    numbers.
    """
    safetensors = require("safetensors.torch", "compare")
    found = {name: value.contiguous() for name, value in answers.items()}
    if "answer" in found and found["answer"].numel() > MOST_NUMBERS:
        del found["answer"]
    # Tied parameters are written twice: the format has no two names for one tensor.
    state = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / MODEL, safetensors.save(state))
    write_bytes(folder / ANSWERS, safetensors.save(found))


def read_answers(folder: Path) -> dict[str, Tensor]:
    """What `write_kept` wrote of the answers, in the order of the examples; empty if nothing is.

    Raises:
        ValueError: a file is spoiled.
    """
    file = folder / ANSWERS
    if not file.is_file():
        return {}
    try:
        found = require("safetensors.torch", "compare").load_file(str(file))
    except Exception as error:
        raise ValueError(f"{file} holds no answers: {error}") from error
    order = found["index"].argsort()
    return {name: value[order] for name, value in found.items()}


def read_model(net: nn.Module, folder: Path) -> None:
    """Give a net the parameters that were kept.

    Raises:
        ValueError: there are none, or they are of another net.
    """
    file = folder / MODEL
    if not file.is_file():
        raise ValueError(f"{folder} holds no {MODEL}: the run diverged, or was trained before")
    try:
        net.load_state_dict(require("safetensors.torch", "compare").load_file(str(file)))
    except Exception as error:
        raise ValueError(f"{file} holds the parameters of another net: {error}") from error
