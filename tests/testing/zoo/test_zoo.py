"""Models of other libraries by name: what is made, what is refused, and no download."""

import importlib.util
import os
import socket
import sys

import pytest
import torch

from tokennet.testing import check
from tokennet.testing.zoo import SOURCES, is_zoo_name, make_zoo_model
from tokennet.testing.zoo.expression import name_and_arguments

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(not HAS_TRANSFORMERS, reason="needs transformers")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection is an error."""

    def refuse(*args, **options):
        pytest.fail("it connects")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def run(made):
    with torch.no_grad():
        example = made.example
        return made.model(**example) if isinstance(example, dict) else made.model(example)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_source_says_what_it_has(source):
    assert source.summary
    assert is_zoo_name(source.shown)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torch:nn.TransformerEncoderLayer(8, 2)", (7, 3, 8)),
        ("torch:nn.TransformerEncoderLayer(8, nhead=2, batch_first=True)", (3, 7, 8)),
        ("torch:Sequential(nn.Linear(4, 6), nn.ReLU())", (3, 7, 4)),
        ("torch:nn.Conv2d(3, 4, (3, 3), padding=-0)", (3, 3, 16, 16)),
        ("torch:nn.Conv1d(3, 4, kernel_size=[3])", (3, 3, 16)),
        ("torch:nn.Embedding(5, 4)", (3, 7)),
        ("torch:nn.LayerNorm([8])", (3, 7, 8)),
        ("torch:nn.ReLU", (3, 7, 8)),
    ],
)
def test_modules_of_torch(name, shape):
    made = make_zoo_model(name)
    assert made.example.shape == shape
    run(made)


def test_two_inputs_of_torch_are_two_sets():
    made = make_zoo_model("torch:nn.TransformerDecoderLayer(8, 2, batch_first=True)")
    assert {name: tuple(x.shape) for name, x in made.example.items()} == {
        "tgt": (3, 7, 8), "memory": (3, 5, 8),
    }  # fmt: skip
    run(made)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch:__import__('os').system('true')", "torch.nn has no"),
        ("torch:nn.Linear(open('x'), 2)", "torch.nn has no 'open'"),
        ("torch:nn.Linear((lambda: 3)(), 2)", "torch.nn has no"),
        ("torch:nn.Linear(2 ** 3, 2)", "no class, number"),
        ("torch:nn.Linear(*[2, 3])", "no class, number"),
        ("torch:nn.Linear(**{'in_features': 3})", "must not have"),
        ("torch:nn.Linear.__init__", "torch.nn has no"),
        ("torch:nn.functional.relu(3)", "torch.nn has no"),
        ("torch:nn.Parameter([1.0])", "torch.nn has no .nn.Parameter"),
        ("torch:[nn.Linear(2, 2)]", "must be Class"),
        ("torch:nn.Linear(2", "must be Class"),
        ("torch:nn.Lienar(2, 2)", "did you mean nn.Linear"),
        ("torch:nn.Linear(2)", "cannot be made: TypeError"),
        ("torch:", "such as torch:nn.TransformerEncoderLayer"),
        ("torch:nn.Sequential(" + "1," * 1000 + ")", "at most 1000 characters"),
        ("tosch:nn.Linear(2, 2)", "did you mean torch"),
        ("pyg:SGFormr", "did you mean SGFormer"),
        ("pyg:HGTConv", "needs metadata"),
        ("hf-tiny:bert-base-uncased", "would be downloaded"),
        ("hf-tiny:google/vit", "would be downloaded"),
        ("timm:hf_hub:timm/vit", "would be downloaded"),
        ("timm:vit_tiny_patch16_224.augreg", "must be name"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        make_zoo_model(name)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("pyg:GCNConv", "torch_geometric"),
        ("hf-tiny:BertModel", "transformers"),
        ("timm:resnet18", "timm"),
    ],
)
def test_a_package_that_is_missing_is_named(name, package, monkeypatch):
    for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.nn")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    install = package.replace("_", "-")
    told = f"{package} is not installed; pip install {install} brings it"
    with pytest.raises(ImportError, match=told):
        make_zoo_model(name)


def test_what_a_package_needs_is_named(monkeypatch, tmp_path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("import no_such_vision")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(ImportError, match="timm needs no_such_vision, which is not installed"):
        make_zoo_model("timm:resnet18")


def test_arguments_are_literals():
    assert name_and_arguments("a(b=1, c=[2, 'x'])") == ("a", {"b": 1, "c": [2, "x"]})
    for text in ("a(1)", "a(b=c)", "a.b", "a()()"):
        with pytest.raises(ValueError, match="model"):
            name_and_arguments(text)


@pytest.mark.parametrize(
    "name",
    ["pyg:SGFormer", "pyg:GCN", "pyg:GINEConv", "pyg:RGCNConv", "pyg:GPSConv",
     "pyg:GPSConv(8, GCNConv(8, 8), attn_type='performer')", "pyg:GATConv(8, 8, heads=3)"],
)  # fmt: skip
def test_models_of_pyg_get_a_batch_of_graphs(name):
    made = make_zoo_model(name)
    assert made.example.num_graphs == 3
    assert made.example.batch.bincount().tolist() == [4, 5, 6]


def test_a_leak_is_found_by_name():
    made = make_zoo_model("pyg:SGFormer")
    report = check(made.model, made.example, laws=["batch_composition"])
    assert report.broken == ("batch_composition",)
    assert report.reports["batch_composition"].location.file.endswith("sgformer.py")


@needs_transformers
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        pytest.param("BertModel", {"input_ids", "attention_mask"}, marks=pytest.mark.sweep),
        ("BertModel(num_hidden_layers=1)", {"input_ids", "attention_mask"}),
        pytest.param("NystromformerModel", {"input_ids"}, marks=pytest.mark.sweep),
        ("T5Model", {"input_ids", "attention_mask", "decoder_input_ids"}),
        ("ViTModel", {"pixel_values"}),
        pytest.param("DetrModel", {"pixel_values"}, marks=pytest.mark.sweep),
        pytest.param("TableTransformerModel", {"pixel_values"}, marks=pytest.mark.sweep),
        pytest.param(
            "CLIPModel", {"input_ids", "attention_mask", "pixel_values"}, marks=pytest.mark.sweep
        ),
    ],
)
def test_models_of_hugging_face_are_small(name, inputs, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    made = make_zoo_model(f"hf-tiny:{name}")
    assert set(made.example) == inputs
    assert sum(p.numel() for p in made.model.parameters()) < 1e5
    assert "HF_HUB_OFFLINE" not in os.environ
    run(made)


@needs_transformers
def test_models_that_claim_to_be_causal_say_so():
    assert make_zoo_model("hf-tiny:GPT2Model").options == {"causal": True}
    assert make_zoo_model("hf-tiny:BertModel").options == {}


@pytest.mark.sweep
def test_models_of_timm():
    pytest.importorskip("tests.peers_timm")
    for name in ("vit_tiny_patch16_224", "resnet18(num_classes=3)"):
        run(make_zoo_model(f"timm:{name}"))
    with pytest.raises(ValueError, match="timm has no 'resnt18'; did you mean"):
        make_zoo_model("timm:resnt18")
    with pytest.raises(ValueError, match="pretrained"):
        make_zoo_model("timm:resnet18(pretrained=True)")
