"""Laws over models of PyG, Hugging Face and timm: python -m benchmarks.leaks.

Small random models by name, as `tokennet check` makes them. Writes the measurements to
results/leaks.json and the tables of docs/leaks.md; `--page` writes the tables alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.leaks_by_hand import BY_HAND
from benchmarks.pages import DOCS, head, row, write
from tokennet.testing import LAWS, check
from tokennet.testing.formats.files import shown_path
from tokennet.testing.zoo import make_zoo_model

RESULTS = Path(__file__).parent / "results" / "leaks.json"
PAGE = DOCS / "leaks.md"
PACKAGES = ("torch", "torch-geometric", "transformers", "timm")
SYMMETRY = ("node_permutation", "tied_inputs", "edge_permutation")
"""Laws that many models break by design; the others are about leaks."""
INDEX = "reads the index of a token, by design"
BY_DESIGN = {
    "hf-tiny": INDEX,
    "timm": INDEX,
    "pyg:LINKX": "has a weight for each node of one graph, by design",
}
"""Models, or whole sources, that are not meant to be equivariant; why."""

PYG = """
GCN GraphSAGE GIN GAT PNA EdgeCNN MLP GraphUNet SchNet DimeNet GNNFF ViSNet AttentiveFP RECT_L
LINKX PMLP NeuralFingerprint ARLinkPredictor MetaLayer SGFormer Polynormer SimpleConv GCNConv
ChebConv SAGEConv GraphConv GravNetConv GatedGraphConv ResGatedGraphConv GATConv GATv2Conv
TransformerConv AGNNConv TAGConv GINConv GINEConv ARMAConv SGConv SSGConv APPNP MFConv RGCNConv
FastRGCNConv RGATConv PointNetConv GMMConv SplineConv NNConv CGConv EdgeConv DynamicEdgeConv
PPFConv FeaStConv PointTransformerConv LEConv PNAConv ClusterGCNConv GENConv GCN2Conv PANConv
WLConvContinuous FiLMConv SuperGATConv FAConv EGConv PDNConv GeneralConv HEATConv LGConv
PointGNNConv AntiSymmetricConv DirGNNConv MixHopConv GPSConv
"""
HUGGING_FACE = """
BertModel RobertaModel DistilBertModel AlbertModel ElectraModel DebertaModel DebertaV2Model
NystromformerModel LongformerModel BigBirdModel FNetModel ReformerModel FunnelModel
ConvBertModel MPNetModel SqueezeBertModel MobileBertModel RoFormerModel YosoModel MraModel
ModernBertModel IBertModel CanineModel XLNetModel XLMModel GPT2Model GPTNeoModel GPTNeoXModel
OPTModel LlamaModel MistralModel Qwen3Model GemmaModel MixtralModel BloomModel FalconModel
MambaModel Mamba2Model JambaModel RecurrentGemmaModel RwkvModel T5Model BartModel PegasusModel
ProphetNetModel LEDModel ViTModel BeitModel SwinModel SegformerModel PvtModel ConvNextModel
Dinov2Model DetrModel CLIPModel CLIPTextModel SiglipModel WhisperModel PerceiverModel
"""
TIMM = """
vit_tiny_patch16_224 deit_tiny_patch16_224 mixer_s32_224 resmlp_12_224 gmlp_ti16_224 resnet18
mobilenetv3_small_050 convnext_atto swin_tiny_patch4_window7_224 xcit_nano_12_p16_224
cait_xxs24_224 poolformer_s12 mobilevit_xxs
"""
PERFORMER = "pyg:GPSConv(8, GCNConv(8, 8), attn_type='performer')"
GLOBAL = "pyg:Polynormer, global"
MODELS = [
    *(f"pyg:{name}" for name in PYG.split()), GLOBAL, PERFORMER,
    *(f"hf-tiny:{name}" for name in HUGGING_FACE.split()),
    *(f"timm:{name}" for name in TIMM.split()),
]  # fmt: skip


def measure(name: str) -> dict[str, Any]:
    """The verdicts on one model, or why there are none."""
    started = time.perf_counter()
    try:
        made = make_zoo_model("pyg:Polynormer" if name == GLOBAL else name)
        if name == GLOBAL:
            made.model._global = True  # as in the second part of its training
        report = check(made.model, made.example, **made.options)
    except Exception as error:  # whatever models of others raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"model": name, "refused": reason[:300]}
    laws = {}
    for law, result in report.reports.items():
        place, where = result.location, ""
        if place is not None:
            where = f"{shown_path(place.file)}:{place.line}" if place.line else place.operation
        laws[law] = {
            "verdict": str(result.verdict),
            "reason": result.reason,
            "error": result.error,
            "where": where,
            "source": "" if place is None else " ".join(place.source.split()),
        }
    seconds = round(time.perf_counter() - started, 1)
    return {"model": name, "laws": laws, "notes": list(made.notes), "seconds": seconds}


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def expected(name: str) -> str:
    """Why a model is not meant to be equivariant, '' where it is."""
    return BY_DESIGN.get(name, BY_DESIGN.get(name.partition(":")[0], ""))


def tables(results: dict[str, Any]) -> dict[str, list[str]]:
    """The lines of each table of the page, by its mark."""
    rows = [r for r in results["models"] if "laws" in r]
    leaks = head("model", "law", "size", "where", "cause, confirmed by hand")
    symmetry = head("model", "law", "where", "cause, confirmed by hand")
    design: dict[str, list[str]] = {}
    for entry in rows:
        name = entry["model"]
        for law, found in entry["laws"].items():
            if found["verdict"] != "BROKEN":
                continue
            where = f"`{found['where']}`<br>`{found['source'][:90]}`".replace("|", "\\|")
            by_hand = BY_HAND.get((name, law))
            told = _told(by_hand) if by_hand else "**not confirmed**"
            if name in BY_DESIGN or (law in SYMMETRY and expected(name)):
                design.setdefault(expected(name), []).append(name)
            elif law in SYMMETRY:
                symmetry.append(row(f"`{name}`", law, where, told))
            else:
                leaks.append(row(f"`{name}`", law, _size(found), where, told))
    by_design = [
        f"- {why}: " + ", ".join(f"`{name}`" for name in dict.fromkeys(names))
        for why, names in design.items()
    ]
    undecided = head("model", "law", "verdict", "why")
    for entry in rows:
        for law, found in entry["laws"].items():
            if found["verdict"] not in ("PASS", "BROKEN"):
                undecided.append(
                    row(f"`{entry['model']}`", law, found["verdict"], _plain(found["reason"]))
                )
    refused = head("model", "why")
    refused += [
        row(f"`{r['model']}`", _plain(r["refused"])) for r in results["models"] if "refused" in r
    ]
    refused += [row(f"`{r['model']}`", _plain(note)) for r in rows for note in r["notes"]]
    return {
        "versions": [", ".join(f"{name} {v}" for name, v in results["versions"].items())],
        "leaks": leaks,
        "symmetry": symmetry,
        "by design": by_design,
        "undecided": undecided,
        "refused": refused,
        "all": _all(rows),
    }


def _told(by_hand: Callable[[], float]) -> str:
    """What a confirmation says, and its name."""
    return f"{' '.join((by_hand.__doc__ or '').split())} (`{by_hand.__name__}`)"


def _size(found: dict[str, Any]) -> str:
    error = found["error"]
    is_number = isinstance(error, float) and error == error and error != float("inf")
    return f"{error:.2g}" if is_number else "not finite"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _all(rows: list[dict[str, Any]]) -> list[str]:
    """Each model and law: ok, the line where it breaks, open where undecided, - where not asked."""
    laws = [law for law in LAWS if any(law in entry["laws"] for entry in rows)]
    lines = head("model", *laws)
    for entry in rows:
        cells = [_cell(entry["laws"].get(law)) for law in laws]
        lines.append(row(f"`{entry['model']}`", *cells))
    return lines


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["verdict"] == "BROKEN":
        return f"`{found['where'].rpartition('/')[2] or 'broken'}`"
    return "ok" if found["verdict"] == "PASS" else "open"


def write_page(results: dict[str, Any]) -> None:
    for mark, lines in tables(results).items():
        write(PAGE, mark, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the page of stored results")
    parser.add_argument("--models", nargs="+", help="measure these again, keep the other results")
    args = parser.parse_args()
    if not args.page:
        importlib.import_module("tests.peers_timm")  # timm without torchvision
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        stored = {}
        if args.models:
            stored = {r["model"]: r for r in json.loads(RESULTS.read_text())["models"]}
        chosen = args.models or MODELS
        for number, name in enumerate(chosen, 1):
            result = stored[name] = measure(name)
            broken = [k for k, v in result.get("laws", {}).items() if v["verdict"] == "BROKEN"]
            told = result.get("refused") or f"{result['seconds']} s, broken: {broken}"
            print(f"{number}/{len(chosen)} {name}: {told}", flush=True)
        results = {"versions": versions(), "models": list(stored.values())}
        RESULTS.write_text(json.dumps(results, indent=1, default=str) + "\n")
    write_page(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
