"""Transformers of others on token graphs: equal to their own attention, and honest where not."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.interop.architectures import (
    ALL,
    DECODERS,
    ENCODERS,
    FEW,
    REFUSED,
    TWO_SETS,
    VISION,
    build,
    inputs_of,
)
from tokennet import Causal, Disjoint, Full, Global, Self, Window, from_mask
from tokennet.graphs import PerHead
from tokennet.interop import on_graph, register_attention
from tokennet.interop._masks import GraphMask, known_graph
from tokennet.interop._visible import own_graph, recognized

pytest.importorskip("transformers")

CLOSE = {"rtol": 2e-6, "atol": 2e-6}


def outputs(model, inputs):
    found = model(**inputs)
    return found.last_hidden_state if hasattr(found, "last_hidden_state") else found[0]


def gradients(out, model):
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad((out * weight).sum(), parameters, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def assert_same(found, expected):
    """To 2e-6 of the largest number."""
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


def assert_same_gradients(found, expected):
    largest = max(float(x.abs().max()) for x in expected)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-6 * max(1.0, largest))


def additive(mask):
    """A mask (N, N) as eager attention reads it, for a batch of two."""
    smallest = torch.finfo(torch.float32).min
    return torch.zeros(mask.shape).masked_fill(~mask, smallest).expand(2, 1, *mask.shape)


def few(names):
    return [pytest.param(name, marks=() if name in FEW else pytest.mark.sweep) for name in names]


@pytest.mark.parametrize("name", few(ALL))
def test_on_its_own_graph_a_model_is_what_it_was(name):
    """Values and gradients of all parameters; of a padded batch, too, and one by one."""
    model = build(name)
    for padded in (False,) if name in VISION else (False, True):
        inputs = inputs_of(name, padded)
        expected = outputs(model, inputs)
        with on_graph(model):
            found = outputs(model, inputs)
        valid = ...
        if padded and name not in TWO_SETS:
            valid = inputs["attention_mask"].bool()
        assert_same(found[valid], expected[valid])
        assert_same_gradients(*(gradients(x[valid], model) for x in (found, expected)))
    if padded and name not in (*TWO_SETS, "mobilebert"):  # whose embedding reads its neighbors
        with on_graph(model):
            alone = outputs(model, {"input_ids": inputs["input_ids"][1:, :6]})
        assert_same(found[1:, :6], alone)


@pytest.mark.parametrize("name", few([*ENCODERS, *DECODERS]))
def test_on_another_graph_it_is_eager_attention_with_the_same_mask(name):
    model, inputs, graph = build(name), inputs_of(name), Window(9, 2) | Global(9, 1)
    seen = graph.dense() & Causal(9).dense() if name in DECODERS else graph.dense()
    if name in ("mistral", "cohere2", "gemma2", "gemma3_text", "gpt_oss", "modernbert"):
        graph, seen = Window(9, 2), seen & Window(9, 2).dense()  # within their own windows
    expected = outputs(model, {**inputs, "attention_mask": additive(seen)})
    with on_graph(model, graph):
        found = outputs(model, inputs)
    assert_same(found, expected)
    assert_same_gradients(*(gradients(x, model) for x in (found, expected)))
    assert (found - outputs(model, inputs)).abs().max() > 1e-3


@pytest.mark.parametrize("name", few(["gpt2", "llama", "mistral", "gemma2", "gpt_oss", "qwen3"]))
def test_with_a_cache_new_tokens_attend_as_the_graph_of_all_says(name):
    model = build(name, "AutoModelForCausalLM")
    ids, pad = inputs_of(name)["input_ids"], torch.ones(2, 9, dtype=torch.long)
    pad[1, :3] = 0
    given = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(ids, attention_mask=pad, **given)
    with on_graph(model):
        assert torch.equal(model.generate(ids, attention_mask=pad, **given), expected)
    with on_graph(model, lambda layer, n: Window(n, 2) | Global(n, 1)):
        found = model.generate(ids, **given)
        assert torch.equal(model.generate(ids, use_cache=False, **given), found)
        static = {"cache_implementation": "static", "disable_compile": True}
        assert torch.equal(model.generate(ids, **static, **given), found)


def test_graphs_by_layer_length_and_head():
    model, inputs = build("bert"), inputs_of("bert")
    seen = []

    def rule(layer, n):
        seen.append((int(layer), layer.path, n))
        return Self(n) if layer == 0 else None

    with on_graph(model, rule):
        expected = outputs(model, inputs)
    paths = [f"encoder.layer.{i}.attention.self" for i in (0, 1)]
    assert seen == [(0, paths[0], 9), (1, paths[1], 9)]
    for graph in ([Self(9)], {0: Self(9)}, {0: PerHead([Self(9)] * 4)}, [Self(9), Full(9)]):
        with on_graph(model, graph):
            torch.testing.assert_close(outputs(model, inputs), expected)
    heads = PerHead([Self(9), Full(9), Full(9), Full(9)])
    with on_graph(model, {0: heads}):
        assert (outputs(model, inputs) - expected).abs().max() > 1e-3


def test_padding_is_kept_on_a_graph_and_on_a_graph_for_each_head():
    model, inputs = build("bert"), inputs_of("bert", padded=True)
    for make in (lambda n: Window(n, 2), lambda n: PerHead([Window(n, 2), Full(n)] * 2)):
        with on_graph(model, lambda layer, n, make=make: make(n)):
            together = outputs(model, inputs)
            alone = outputs(model, {"input_ids": inputs["input_ids"][1:, :6]})
        assert_same(together[1:, :6], alone)


def test_packed_sequences_stay_apart():
    model, ids = build("llama"), torch.randint(3, 50, (1, 9))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    with on_graph(model, Window(9, 5)):
        packed = outputs(model, {"input_ids": ids, "position_ids": positions, "use_cache": False})
    parts = [outputs(model, {"input_ids": x}) for x in (ids[:, :4], ids[:, 4:])]
    assert_same(packed, torch.cat(parts, 1))


def state(model):
    hooks = [
        [list(m._forward_hooks), list(m._forward_pre_hooks), list(m._forward_hooks_always_called)]
        for m in model.modules()
    ]
    config = getattr(model, "config", None)
    kind = None if config is None else config._attn_implementation
    fast = torch.backends.mha.get_fastpath_enabled()
    modes = torch._C._len_torch_function_stack()
    return hooks, kind, fast, modes, sorted(model.__dict__)


def test_all_is_as_before_after_the_block_and_after_exceptions():
    model, inputs = build("bert"), inputs_of("bert")
    before, expected = state(model), outputs(model, inputs)
    with on_graph(model, Window(9, 1)):
        assert state(model) != before
        outputs(model, inputs)
    assert state(model) == before
    for error in ("in the block", "in a layer", "of the graph"):
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            fail(error, model, inputs)
        model.encoder.layer[1].__dict__.pop("forward", None)
        assert state(model) == before
        assert torch.equal(outputs(model, inputs), expected)


def fail(error, model, inputs):
    with on_graph(model, Window(9, 1)):
        if error == "in the block":
            raise RuntimeError(error)
        if error == "of the graph":
            outputs(model, {"input_ids": inputs["input_ids"][:, :5]})
        model.encoder.layer[1].forward = None  # hooks of all modules around it are on their way
        outputs(model, inputs)


def test_the_permanent_form_and_the_way_back():
    model, inputs = build("bert"), inputs_of("bert")
    before, expected = state(model), outputs(model, inputs)
    put = on_graph(model, Self(9))
    assert put.model is model
    assert (outputs(model, inputs) - expected).abs().max() > 1e-3
    put.restore()
    put.restore()
    assert state(model) == before


def test_a_model_that_is_forgotten_is_freed():
    model = on_graph(build("bert"), Self(9)).model
    outputs(model, inputs_of("bert"))
    alive = weakref.ref(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    on_graph(model).restore()
    model.__dict__["_tokennet_session"].stack[0].restore()
    del model
    gc.collect()
    assert alive() is None
    assert not fast
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_is_freed_on_a_graph_leaves_the_fast_path_as_it_was():
    model = on_graph(build("bert"), Self(9)).model
    outputs(model, inputs_of("bert"))
    assert not torch.backends.mha.get_fastpath_enabled()
    del model
    gc.collect()
    assert torch.backends.mha.get_fastpath_enabled()
    restored = on_graph(build("bert"), Self(9))
    with on_graph(build("bert"), Self(9)):
        restored.restore()
        assert not torch.backends.mha.get_fastpath_enabled()
    del restored
    gc.collect()
    assert torch.backends.mha.get_fastpath_enabled()


def test_nested_blocks_the_inner_graph_counts():
    model, inputs = build("bert"), inputs_of("bert")
    before = state(model)
    with on_graph(model, Self(9)):
        outer = outputs(model, inputs)
        with on_graph(model, Window(9, 1)):
            inner = outputs(model, inputs)
            with on_graph(model.encoder, Full(9)):
                own = outputs(model, inputs)
        assert torch.equal(outputs(model, inputs), outer)
    assert state(model) == before
    with on_graph(model, Window(9, 1)):
        torch.testing.assert_close(outputs(model, inputs), inner)
    torch.testing.assert_close(outputs(model, inputs), own)
    assert (inner - outer).abs().max() > 1e-3


def test_threads_do_not_see_each_other():
    """Two models on graphs, and one that is not, called in three threads at once."""
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval() for _ in range(3)]
    z = torch.randn(1, 6, 8)
    graphs = [Self(6), Window(6, 1), None]
    expected = []
    for layer, graph in zip(layers, graphs, strict=True):
        if graph is None:
            expected.append(layer(z))
            continue
        with on_graph(layer, graph):
            expected.append(layer(z))
    wrong, started = [], threading.Barrier(3)

    def work(number):
        started.wait()
        for _ in range(20):
            if not torch.allclose(layers[number](z), expected[number], atol=1e-6):
                wrong.append(number)

    with on_graph(layers[0], graphs[0]), on_graph(layers[1], graphs[1]):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert wrong == []


class Calls(nn.Module):
    """Two layers that call SDPA themselves, with options."""

    def __init__(self, **options):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.options = options

    def forward(self, z):
        for layer in self.maps:
            q, k, v = layer(z).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            z = F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).flatten(2)
        return z


MASKS = {
    "none": ({}, Full(6)),
    "causal": ({"is_causal": True}, Causal(6)),
    "boolean": ({"attn_mask": Window(6, 1).dense()}, Window(6, 1)),
    "scale": ({"scale": 2.0}, Full(6)),
}


@pytest.mark.parametrize("name", MASKS)
def test_what_calls_sdpa_is_reached(name):
    options, own = MASKS[name]
    model, z, graph = Calls(**options), torch.randn(2, 6, 8), Window(6, 2)
    expected = model(z)
    with on_graph(model, [None, None]):
        torch.testing.assert_close(model(z), expected)
    with on_graph(model, graph):
        found = model(z)
    model.options = {"scale": options.get("scale"), "attn_mask": (graph & own).dense()}
    torch.testing.assert_close(found, model(z))


def test_a_bias_in_the_mask_is_added_on_the_graph():
    bias = torch.randn(1, 2, 6, 6)
    model, z, graph = Calls(attn_mask=bias), torch.randn(2, 6, 8), Window(6, 2)
    with on_graph(model, graph):
        found = model(z)
    model.options["attn_mask"] = bias.masked_fill(~graph.dense(), -torch.inf)
    torch.testing.assert_close(found, model(z))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_of_torch(batch_first, need_weights):
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    z, graph = torch.randn(3, 5, 8), Window(5, 1) if batch_first else Window(3, 1)
    n = graph.num_targets
    padding = torch.zeros(8 - n, n, dtype=torch.bool)
    padding[1, -1] = True
    given = {"key_padding_mask": padding, "need_weights": need_weights}
    expected = layer(z, z, z, attn_mask=~graph.dense(), **given)
    with on_graph(layer, graph):
        found = layer(z, z, z, **given)
        float_mask = torch.zeros(n, n).masked_fill(~graph.dense(), -torch.inf)
        also = layer(z, z, z, attn_mask=float_mask, **given)
        both = layer(z, z, z, attn_mask=(~graph.dense()).expand(2 * (8 - n), n, n), **given)
    for mine in (found, also, both):
        torch.testing.assert_close(mine[0], expected[0])
        if need_weights:
            torch.testing.assert_close(mine[1], expected[1])
    one = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    with on_graph(one, graph), pytest.raises(NotImplementedError, match="must have bias_k=None"):
        one(z, z, z)


def test_encoder_of_torch_with_its_fast_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, z = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 6, 8)
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    with torch.no_grad():
        expected = model(z, src_key_padding_mask=padding)
        with on_graph(model):
            found = model(z, src_key_padding_mask=padding)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1, :4], expected[1, :4], atol=1e-5, rtol=1e-5)


def test_models_of_timm():
    from tests.peers_timm import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2,
        num_classes=3,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    image, graph = torch.randn(2, 3, 32, 32), Window(17, 3) | Global(17, 1)
    expected = model(image)
    with on_graph(model):
        torch.testing.assert_close(model(image), expected, atol=1e-6, rtol=1e-5)
    with on_graph(model, graph):
        found = model(image)
    for block in model.blocks:
        block.attn.register_forward_pre_hook(
            lambda m, args, kwargs: (args, {**kwargs, "attn_mask": graph.dense()}), with_kwargs=True
        )
    torch.testing.assert_close(found, model(image), atol=1e-6, rtol=1e-5)
    assert (found - expected).abs().max() > 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_reached_is_refused_by_its_path(name):
    model, inputs = build(name), inputs_of(name)
    before = outputs(model, inputs)
    with (
        pytest.raises(RuntimeError, match="be put on a graph: .* computes attention itself"),
        on_graph(model, Window(9, 1)),
    ):
        model(**inputs)
    assert torch.equal(outputs(model, inputs), before)


def test_a_model_without_attention_is_refused():
    model = nn.Linear(2, 2)
    with on_graph(model, Full(3)), pytest.raises(RuntimeError, match="Linear cannot be put .* no"):
        model(torch.zeros(3, 2))


def test_graphs_that_do_not_fit_are_refused():
    model, inputs = build("bert"), inputs_of("bert")
    message = r"graph of encoder.layer.0.attention.self must have 9 targets .*, got Full\(5\)"
    with pytest.raises(ValueError, match=message), on_graph(model, Full(5)):
        model(**inputs)
    with (
        pytest.raises(TypeError, match="graph of encoder.layer.0.* must be a graph or None"),
        on_graph(model, lambda layer, n: n),
    ):
        model(**inputs)
    for wrong in (3, "sparse"):
        with pytest.raises(TypeError, match="graph must be a TokenGraph"):
            on_graph(model, wrong)
    with pytest.raises(TypeError, match="model must be a module"):
        on_graph(Full(3))


def test_the_name_of_the_implementation():
    register_attention()
    model, inputs = build("mistral"), inputs_of("mistral", padded=True)
    expected = outputs(model, inputs)
    model.set_attn_implementation("tokennet")
    found = outputs(model, inputs)
    valid = inputs["attention_mask"].bool()
    assert_same(found[valid], expected[valid])
    with on_graph(model, Self(9)):
        assert (outputs(model, inputs)[valid] - expected[valid]).abs().max() > 1e-3
    assert model.config._attn_implementation == "tokennet"


def test_dropout_in_training_is_that_of_the_model():
    model, inputs = build("bert"), inputs_of("bert")
    for part in model.modules():
        if hasattr(part, "dropout") and isinstance(part.dropout, nn.Dropout):
            part.dropout.p = 0.0
    model.train()
    attention = model.encoder.layer[0].attention.self
    attention.dropout.p = 0.5
    with on_graph(model):
        assert not torch.equal(outputs(model, inputs), outputs(model, inputs))
        attention.dropout.p = 0.0
        torch.testing.assert_close(outputs(model, inputs), outputs(model, inputs))


@pytest.mark.parametrize(
    "graph",
    [
        Full(7), Full(3, 7), Causal(7), Causal(7).last(3), Window(7, 2), Causal(7) & Window(7, 2),
        (Causal(7) & Window(7, 2)).last(2), Window(7, 2).last(3), Causal(1), Self(7),
    ],
    ids=repr,
)  # fmt: skip
def test_masks_are_recognized(graph):
    found = recognized(graph.dense())
    assert torch.equal(found.dense(), graph.dense())
    assert not found.is_explicit
    assert recognized(graph.dense()) is found


def test_other_masks_are_lists_of_edges():
    for graph in (Window(7, 1) | Global(7, 1), Disjoint([Full(3), Causal(4)]), ~Full(3)):
        found = recognized(graph.dense())
        assert found.is_explicit
        assert torch.equal(found.dense(), graph.dense())


def test_masks_with_several_entries():
    mask = torch.stack([Causal(4).dense(), Self(4).dense()])[:, None]
    own = own_graph(mask, False, 4, 4)
    assert own.graph.is_causal
    assert torch.equal(own.bias == 0, mask)
    assert own_graph(mask[:1].expand(3, 1, 4, 4), False, 4, 4).bias is None
    with pytest.raises(ValueError, match="attention_mask must be given where a causal layer has 2"):
        own_graph(None, True, 2, 4)


def test_a_copy_of_a_model_may_be_put_on_another_graph():
    model, inputs = build("bert"), inputs_of("bert")
    other = copy.deepcopy(model)
    with on_graph(model, Self(9)), on_graph(other, from_mask(Window(9, 1).dense())):
        first, second = outputs(model, inputs), outputs(other, inputs)
    with on_graph(model, Window(9, 1)):
        torch.testing.assert_close(outputs(model, inputs), second)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_mask_functions_of_hugging_face_are_known(n):
    """Against their own masks, written out."""
    from transformers import masking_utils as theirs

    functions = {
        "causal": theirs.causal_mask_function,
        "all": theirs.bidirectional_mask_function,
        "window": theirs.sliding_window_causal_mask_function(3),
        "both sides": theirs.sliding_window_bidirectional_mask_function(2),
        "two": theirs.and_masks(
            theirs.sliding_window_causal_mask_function(5), theirs.sliding_window_overlay(2)
        ),
    }
    skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    for name, function in functions.items():
        graph = known_graph(function, n)
        mask = theirs.sdpa_mask(1, n, n, mask_function=function, **skips)
        assert graph is not None, name
        assert torch.equal(graph.dense(), mask[0, 0]), name
    packed = theirs.packed_sequence_mask_function(torch.zeros(1, n, dtype=torch.long))
    for unknown in (
        packed, theirs.and_masks(packed, theirs.causal_mask_function), lambda b, h, i, j: i >= j,
        theirs.or_masks(theirs.causal_mask_function, theirs.causal_mask_function), None,
    ):  # fmt: skip
        assert known_graph(unknown, n) is None


def test_a_mask_that_is_known_is_written_out_when_it_is_used():
    register_attention()
    model = build("mistral")
    model.set_attn_implementation("tokennet")
    from transformers.masking_utils import create_sliding_window_causal_mask

    z = torch.zeros(2, 9, 32)
    mask = create_sliding_window_causal_mask(model.config, z, None, None)
    assert type(mask) is GraphMask
    assert (mask.shape, mask.dtype, mask.dim(), mask.ndim) == ((2, 1, 9, 9), torch.bool, 4, 4)
    written = mask[:, :, 2:]
    assert type(written) is torch.Tensor
    expected = (Causal(9) & Window(9, 3)).dense().expand(2, 1, 9, 9)
    assert torch.equal(written, expected[:, :, 2:])
    assert torch.equal(mask & expected, expected)
    assert torch.equal(torch.where(mask, 1, 0), expected.long())
    padding = torch.ones(2, 9, dtype=torch.bool)
    same = create_sliding_window_causal_mask(model.config, z, padding, None)
    assert type(same) is GraphMask
    padding[0, 0] = False
    other = create_sliding_window_causal_mask(model.config, z, padding, None)
    assert type(other) is torch.Tensor
