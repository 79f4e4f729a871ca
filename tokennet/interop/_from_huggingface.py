"""`from_huggingface`: models of transformers (version 5, not imported here) as nets of layers."""

from __future__ import annotations

from typing import Any

import torch

from tokennet.interop import _huggingface_images, _huggingface_texts
from tokennet.interop.convert import convert
from tokennet.models import resample_positions

CONVERTERS = {**_huggingface_texts.CONVERTERS, **_huggingface_images.CONVERTERS}


def from_huggingface(
    model: Any,
    *,
    resample: tuple[int, int] | None = None,
    verify: bool = True,
    verify_dtype: torch.dtype = torch.float64,
) -> Any:
    """A model of Hugging Face as a net of layers, with a copy of its weights.

    Use it to run, check or draw a pretrained model with this library.

    - `GPT2LMHeadModel`, `LlamaForCausalLM`, `MistralForCausalLM` and `Qwen3ForCausalLM` become a
      `Decoder`, `T5ForConditionalGeneration` (and mT5's) an `EncoderDecoder`.
    - `...ForMaskedLM` of BERT, RoBERTa (XLM-R, CamemBERT), DistilBERT and ModernBERT become a
      `MaskedLanguageModel`. Texts have no padding: give a list of texts.
    - `ViTForImageClassification`, `Dinov2ForImageClassification` and `Dinov2Model` (read from the
      class token; both also `WithRegisters`) become nets over patches (..., N, C x P x P).
    - `CLIPModel` becomes a `TwoTower`; a text ends with its end token.

    The net has no dropout of attention weights and no stochastic depth.

    Copies of both are run on random inputs in eval mode, with padding and without, and compared
    token by token. `model` stays as it is.

    Args:
        model: pretrained or of a configuration of your own, without parts of other packages.
        resample: the grid of patches, (rows, columns), that the net is for; by default that of
            the model. The table of a vision transformer is resampled after the comparison, as
            `interpolate_pos_encoding=True` does, see `resample_positions`.
        verify: whether both are compared; `net.conversion` says whether they were.
        verify_dtype: as for `from_torch`; Llama, ModernBERT, T5 and their like compute parts in
            float32, and are compared in that.

    Raises:
        TypeError: another kind of model.
        ValueError: a configuration that the net does not support; a subclass or hooks inside; or
            the net gives other outputs.

    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> sizes = {"vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    >>> model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=None)).eval()
    >>> ids = torch.tensor([[1, 2, 3]])
    >>> bool((from_huggingface(model)(ids) - model(ids).logits).abs().max() < 1e-5)
    True
    """
    options = {"verify": verify, "verify_dtype": verify_dtype}
    net = convert("model", model, "transformers", CONVERTERS, **options)  # type: ignore[arg-type]
    antialias = type(model).__name__.startswith("Dinov2WithRegisters")  # alone among theirs
    return net if resample is None else resample_positions(net, resample, antialias=antialias)
