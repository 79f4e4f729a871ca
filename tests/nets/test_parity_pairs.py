"""Nets of two sets: those made of torch.nn's transformers, and Hugging Face's CLIP."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from tests.peers import parity, randomized
from tokennet import Full, Tokens
from tokennet.interop import from_huggingface, from_torch, to_huggingface
from tokennet.interop.copy import Copier
from tokennet.models import Objects, contrastive_loss, create_model, set_prediction_loss
from tokennet.positional import SinusoidalEncoding

IN, DIM, HEADS, DEPTH, VOCAB, CLASSES, QUERIES = 6, 16, 2, 2, 11, 3, 5
TIGHT = 1e-11
GRID = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0)).double()
copy = Copier()


def patches(batch=2):
    return Tokens(torch.randn(batch, 6, IN, dtype=torch.float64), Full(6), GRID)


def places(z):
    return z + SinusoidalEncoding(DIM, "pos", num_coordinates=2).encode(GRID)


def options(**dress):
    sizes = {"d_model": DIM, "nhead": HEADS, "batch_first": True, "dropout": 0.0}
    return {**sizes, **dress}


class Asking(nn.Module):
    """An encoder of patches, and a decoder of a question that listens to it."""

    def __init__(self):
        super().__init__()
        dress = options(norm_first=True, activation="gelu", dim_feedforward=4 * DIM)
        self.embed = nn.Linear(IN, DIM)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**dress), DEPTH, nn.LayerNorm(DIM), False
        )
        self.words, self.order = nn.Embedding(VOCAB, DIM), nn.Embedding(8, DIM)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**dress), DEPTH)
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 4)

    def forward(self, z, ids):
        heard = self.encoder(places(self.embed(z)))
        asked = self.words(ids) + self.order.weight[: ids.shape[-1]]
        return self.head(self.norm(self.decoder(asked, heard)).mean(-2))


def test_question_net(hold):
    def convert(theirs):
        ours = create_model(
            "question_net",
            in_features=IN,
            vocab=VOCAB,
            out_features=4,
            dim=DIM,
            depth=DEPTH,
            num_heads=HEADS,
            max_length=8,
        ).double()
        _, embed, _, looking = ours.encoder.layers
        copy.linear(embed.fn, theirs.embed)
        looking.load_state_dict(from_torch(theirs.encoder).state_dict())
        words, order, asking = ours.decoder.layers
        copy.parameter(words.tables[0].weight, theirs.words.weight)
        copy.parameter(order.tables[0].weight, theirs.order.weight)
        asking.load_state_dict(from_torch(theirs.decoder).state_dict())
        copy.norm(ours.decoder.readout.norm, theirs.norm)
        copy.linear(ours.decoder.readout.head, theirs.head)
        return ours

    image, ids = patches(), torch.randint(0, VOCAB, (2, 5))
    theirs = randomized(Asking())
    found = parity(convert, theirs, lambda net: net(image, ids), lambda net: net(image.z, ids))
    peer = "torch.nn.TransformerEncoder, TransformerDecoder"
    hold("question_net", peer, found, TIGHT, of="layers")


class Detecting(nn.Module):
    """The post-norm transformer of 2017, from patches to queries, with DETR's two heads."""

    def __init__(self):
        super().__init__()
        dress = options(norm_first=False, activation="relu", dim_feedforward=24)
        self.embed = nn.Linear(IN, DIM)
        self.transformer = nn.Transformer(
            DIM,
            HEADS,
            batch_first=True,
            custom_encoder=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(**dress), DEPTH, None, False
            ),
            custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(**dress), DEPTH),
        )
        self.queries = nn.Parameter(torch.randn(QUERIES, DIM))
        self.classes = nn.Linear(DIM, CLASSES + 1)
        widths = [DIM, DIM, DIM, 4]
        self.box = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, z):
        asked = self.queries.expand(len(z), -1, -1)
        answer = self.transformer(places(self.embed(z)), asked)
        box = self.box[2](self.box[1](self.box[0](answer).relu()).relu())
        return self.classes(answer), box.sigmoid()


def detector(theirs):
    ours = create_model(
        "detr",
        in_features=IN,
        classes=CLASSES,
        queries=QUERIES,
        dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        hidden=24,
    ).double()
    _, embed, _, looking = ours.encoder.layers
    copy.linear(embed.fn, theirs.embed)
    looking.load_state_dict(from_torch(theirs.transformer.encoder).state_dict())
    ours.decoder.load_state_dict(from_torch(theirs.transformer.decoder).state_dict())
    copy.parameter(ours.queries, theirs.queries)
    copy.linear(ours.classes, theirs.classes)
    for place, linear in zip((0, 2, 4), theirs.box, strict=True):
        copy.linear(ours.box[place], linear)
    return ours


def test_detr(hold):
    image, theirs = patches(), randomized(Detecting())
    found = parity(
        detector,
        theirs,
        lambda net: torch.cat(net(image), -1),
        lambda net: torch.cat(net(image.z), -1),
    )
    hold("detr", "torch.nn.Transformer", found, TIGHT, of="layers")


class Costs:
    """What their loss reads of a configuration."""

    class_cost, bbox_cost, giou_cost = 1, 5, 2
    num_labels, eos_coefficient, auxiliary_loss = CLASSES, 0.1, False
    bbox_loss_coefficient, giou_loss_coefficient = 5, 2


@pytest.fixture
def in_double():
    """Weights that their loss makes for itself are of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_detr_with_its_loss(hold, in_double):
    image, theirs = patches(), randomized(Detecting())
    objects = [
        Objects(torch.randint(0, CLASSES, (count,)), 0.2 + 0.5 * torch.rand(count, 4))
        for count in (2, 3)
    ]
    labels = [{"class_labels": there.labels, "boxes": there.boxes} for there in objects]

    def their_loss(net):
        logits, boxes = net(image.z)
        return ForObjectDetectionLoss(logits, labels, "cpu", boxes, Costs)[0]

    found = parity(
        detector, theirs, lambda net: set_prediction_loss(net(image), objects), their_loss
    )
    hold("detr", "transformers ForObjectDetectionLoss", found, TIGHT, of="loss")


def clip(act="quick_gelu", end=VOCAB - 1):
    half = {"num_attention_heads": HEADS, "hidden_act": act, "num_hidden_layers": DEPTH}
    text = {"vocab_size": VOCAB, "max_position_embeddings": 8, "eos_token_id": end}
    text |= {"hidden_size": DIM, "intermediate_size": 24}
    vision = {"image_size": 9, "patch_size": 4, "hidden_size": 12, "intermediate_size": 20}
    vision |= {"num_hidden_layers": DEPTH + 1}
    config = CLIPConfig(
        text_config={**half, **text}, vision_config={**half, **vision}, projection_dim=DIM
    )
    return randomized(CLIPModel(config))


def pairs(end=VOCAB - 1):
    """Images, the same cut into patches, and texts that end where theirs are read."""
    images = torch.randn(3, 3, 9, 9, dtype=torch.float64)
    cut = images[..., :8, :8].unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
    ids = torch.randint(0, VOCAB - 1, (3, 6))
    ids[ids == end] = end - 1
    ids[:, -1] = end
    return images, cut.flatten(3).flatten(1, 2), ids


def test_clip(hold):
    images, cut, ids = pairs()
    found = parity(
        from_huggingface,
        clip(),
        lambda net: net(cut, ids),
        lambda net: net(input_ids=ids, pixel_values=images).logits_per_image,
    )
    hold("clip", "transformers CLIPModel", found, TIGHT)


def test_clip_with_its_loss(hold):
    images, cut, ids = pairs()
    found = parity(
        from_huggingface,
        clip(),
        lambda net: contrastive_loss(net(cut, ids)),
        lambda net: net(input_ids=ids, pixel_values=images, return_loss=True).loss,
    )
    hold("clip", "transformers CLIPModel", found, TIGHT, of="loss")


@pytest.mark.parametrize(("act", "end"), [("gelu", 3), ("quick_gelu", 2)])
def test_clip_with_other_ends_and_activations(act, end):
    """An end of 2 is an old mistake: they read the largest id then."""
    theirs = clip(act, end)
    net, (images, cut, ids) = from_huggingface(theirs), pairs(VOCAB - 1 if end == 2 else end)
    want = theirs(input_ids=ids, pixel_values=images).logits_per_image
    torch.testing.assert_close(net(cut, ids), want, rtol=TIGHT, atol=TIGHT)
    back = to_huggingface(net, clip(act, end))
    for key, value in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"act": "relu"}, "model.config.vision_config.hidden_act must be .*; got 'relu'"),
        ({"end": VOCAB}, "eos_token_id must be an id below vocab_size = 11, .*, got 11"),
    ],
)
def test_clip_that_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        from_huggingface(clip(**options))
