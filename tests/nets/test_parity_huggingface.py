"""Models of Hugging Face, of small random configurations: the same values and gradients."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss, HungarianMatcher
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from tests.peers import parity, randomized
from tokennet import Causal, Tokens
from tokennet.interop import from_huggingface
from tokennet.models import (
    Objects,
    Prediction,
    contrastive_loss,
    generalized_iou,
    match,
    set_prediction_loss,
)
from tokennet.nets import Sampling

TIGHT = 1e-11
VOCAB = 23


def gpt2(**options):
    sizes = {"n_positions": 20, "n_embd": 16, "n_layer": 2, "n_head": 2, **options}
    config = GPT2Config(vocab_size=VOCAB, bos_token_id=0, eos_token_id=None, **sizes)
    config._attn_implementation = "eager"
    return randomized(GPT2LMHeadModel(config))


def bert(**options):
    return randomized(
        BertForMaskedLM(
            BertConfig(
                vocab_size=VOCAB,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
                max_position_embeddings=12,
                **options,
            )
        )
    )


def vit():
    return randomized(
        ViTForImageClassification(
            ViTConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
                image_size=8,
                patch_size=4,
                num_labels=5,
            )
        )
    )


def patches(images, size):
    """(B, C, H, W) to (B, N, C x P x P), row by row."""
    cut = images.unfold(2, size, size).unfold(3, size, size)  # (B, C, H / P, W / P, P, P)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def test_gpt2(hold):
    ids = torch.randint(0, VOCAB, (2, 9))
    found = parity(from_huggingface, gpt2(), lambda net: net(ids), lambda net: net(ids).logits)
    hold("gpt", "transformers GPT2LMHeadModel", found, TIGHT)


def test_bert_with_types(hold):
    # Not id 0: theirs is padding, which learns nothing as an input.
    ids, types = torch.randint(1, VOCAB, (2, 9)), torch.randint(0, 2, (2, 9))
    both = torch.stack([ids, types], dim=-1)
    found = parity(
        from_huggingface,
        bert(),
        lambda net: net(Tokens(both)),
        lambda net: net(ids, token_type_ids=types).logits,
    )
    hold("bert", "transformers BertForMaskedLM", found, TIGHT)


def test_bert_without_types_and_padded():
    theirs, sizes = bert(), [9, 4]
    ids = torch.randint(0, VOCAB, (2, 9))
    attended = (torch.arange(9) < torch.tensor(sizes)[:, None]).long()
    want = theirs(ids, attention_mask=attended).logits
    got = from_huggingface(theirs)([row[:size] for row, size in zip(ids, sizes, strict=True)])
    expected = torch.cat([row[:size] for row, size in zip(want, sizes, strict=True)])
    torch.testing.assert_close(got, expected, rtol=TIGHT, atol=TIGHT)


def test_vit(hold):
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = parity(
        from_huggingface,
        vit(),
        lambda net: net(patches(images, 4)),
        lambda net: net(images).logits,
    )
    hold("vit", "transformers ViTForImageClassification", found, TIGHT)


def test_what_is_not_known_is_refused():
    with pytest.raises(TypeError, match="model must be one of GPT2LMHeadModel"):
        from_huggingface(BertModel(bert().config))
    with pytest.raises(ValueError, match="activation_function must be 'gelu_new', got 'relu'"):
        from_huggingface(gpt2(activation_function="relu"))
    with pytest.raises(ValueError, match="n_inner must be 64"):
        from_huggingface(gpt2(n_inner=20))
    with pytest.raises(ValueError, match=r"no parameter besides .*, got lm_head\.weight"):
        from_huggingface(gpt2(tie_word_embeddings=False))
    with pytest.raises(ValueError, match=r"got cls\.predictions\.decoder\.weight"):
        from_huggingface(bert(tie_word_embeddings=False))


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_that_of_gpt2(beams):
    theirs = gpt2()
    prompt = torch.randint(0, VOCAB, (2, 4))
    want = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=6,
        num_beams=beams,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(from_huggingface(theirs).generate(prompt, 6, num_beams=beams), want)


@pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.7}, {"top_k": 6, "top_p": 0.5}])
def test_probabilities_are_those_of_their_warpers(options):
    scores = torch.randn(5, VOCAB, dtype=torch.float64)
    want = TemperatureLogitsWarper(1.7)(None, scores)
    if "top_k" in options:
        want = TopKLogitsWarper(options["top_k"])(None, want)
    if "top_p" in options:
        want = TopPLogitsWarper(options["top_p"])(None, want)
    got = Sampling(temperature=1.7, **options).probabilities(scores)
    torch.testing.assert_close(got, want.softmax(-1))


def detection_example():
    logits = torch.randn(3, 6, 5, requires_grad=True)
    raw = torch.randn(3, 6, 4, requires_grad=True)
    objects = []
    for count in (2, 0, 6):
        middle, size = torch.rand(2, count, 2)
        boxes = torch.cat([0.3 + 0.4 * middle, 0.1 + 0.3 * size], dim=-1)
        objects.append(Objects(torch.randint(0, 4, (count,)), boxes))
    return logits, raw, objects


def test_matching_and_loss_are_those_of_detr():
    logits, raw, objects = detection_example()
    ours = Prediction(logits, raw.sigmoid())
    labels = [{"class_labels": o.labels, "boxes": o.boxes} for o in objects]
    theirs = {"logits": logits, "pred_boxes": raw.sigmoid()}
    for got, want in zip(
        match(ours, objects), HungarianMatcher(1, 5, 2)(theirs, labels), strict=True
    ):
        assert torch.equal(torch.stack(got), torch.stack(want))

    class Config:
        class_cost, bbox_cost, giou_cost = 1, 5, 2
        num_labels, eos_coefficient, auxiliary_loss = 4, 0.1, False
        bbox_loss_coefficient, giou_loss_coefficient = 5, 2

    want, *_ = ForObjectDetectionLoss(logits, labels, "cpu", raw.sigmoid(), Config)
    got = set_prediction_loss(ours, objects)
    torch.testing.assert_close(got, want)  # in float32, as their weights of classes are
    for mine, other in zip(
        torch.autograd.grad(got, [logits, raw]),
        torch.autograd.grad(want, [logits, raw]),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("label", [4, 5, -1])
def test_a_label_beyond_the_classes_is_named(label):
    guess = Prediction(torch.zeros(1, 3, 5), torch.rand(1, 3, 4))
    there = Objects(torch.tensor([0, label]), torch.rand(2, 4))
    with pytest.raises(ValueError, match=f"labels must be 0 .. 3 for 4 classes, got {label}"):
        set_prediction_loss(guess, [there])


def test_boxes_that_do_not_meet_are_worse_the_farther_they_are():
    box = torch.tensor([0.2, 0.2, 0.1, 0.1])
    near, far = torch.tensor([0.4, 0.2, 0.1, 0.1]), torch.tensor([0.9, 0.2, 0.1, 0.1])
    assert generalized_iou(box, near) > generalized_iou(box, far) > -1


def test_contrastive_loss_is_that_of_clip():
    similarity = torch.randn(5, 5, dtype=torch.float64)
    torch.testing.assert_close(
        contrastive_loss(similarity), image_text_contrastive_loss(similarity)
    )
    with pytest.raises(ValueError, match="similarity must have shape"):
        contrastive_loss(similarity[:3])


def test_a_causal_graph_is_needed_to_be_gpt2():
    theirs, ids = gpt2(), torch.randint(0, VOCAB, (2, 9))
    ours = from_huggingface(theirs)
    torch.testing.assert_close(ours(Tokens(ids[..., None], Causal(9))), theirs(ids).logits)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours(Tokens(ids[..., None])), theirs(ids).logits)
