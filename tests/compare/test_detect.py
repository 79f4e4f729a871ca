"""The task `detect`: overlap of boxes, matching, average precision."""

import itertools
import math

import pytest
import torch

from tokennet.compare.tasks.detect import (
    CLASSES,
    NOTHING,
    Detect,
    average_precision,
    iou,
    match_guesses,
    mean_average_precision,
)
from tokennet.compare.tasks.digits import digit_images
from tokennet.models import Objects, Prediction, set_prediction_loss
from tokennet.models.detection import assign


def test_only_examples_to_train_on_show_digits_to_train_on():
    task = object.__new__(Detect)
    task.target, task.train_size, seen = torch.zeros(5), 3, []
    task.draw_all(lambda number, images, generator: seen.append((number, images[0])))
    pools = {split: images[0] for split, images in digit_images().items()}
    assert len(pools["train"]) != len(pools["test"])
    splits = ["train", "train", "train", "test", "test"]
    for (number, images), (wanted, split) in zip(seen, enumerate(splits), strict=True):
        assert number == wanted
        assert torch.equal(images, pools[split])


def test_overlap_by_hand():
    box = torch.tensor([1.0, 1.0, 2.0, 2.0])
    others = torch.tensor([[2.0, 1, 2, 2], [9.0, 1, 2, 2], [1.0, 1, 1, 1], [1.0, 1, 2, 2]])
    assert iou(box, others).tolist() == pytest.approx([1 / 3, 0, 1 / 4, 1])


def test_the_pairs_are_the_cheapest_of_all():
    costs = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    there = torch.tensor([[True] * 3, [True, False, True], [False] * 3, [False, True, False]])
    image, guess, found = assign(costs, there)
    assert torch.bincount(image, minlength=4).tolist() == [3, 2, 0, 1]
    for number in range(4):
        objects = there[number].nonzero().flatten().tolist()
        cheapest = min(
            sum(
                float(costs[number, row, column]) for row, column in zip(rows, objects, strict=True)
            )
            for rows in itertools.permutations(range(5), len(objects))
        )
        mine = image == number
        assert float(costs[number, guess[mine], found[mine]].sum()) == pytest.approx(cheapest)
        assert sorted(found[mine].tolist()) == objects


def test_the_loss_of_an_image_is_the_loss_of_the_library():
    task = Detect(examples=12)
    output = torch.randn(6, 49, CLASSES + 5, generator=torch.Generator().manual_seed(0)).double()
    output.requires_grad_()
    target = task.target[:6].double()
    (ours,) = torch.autograd.grad(task.loss(output, target).sum(), output)
    losses = []
    for answer, objects in zip(task.guesses(output), target, strict=True):
        objects = objects[objects[:, 0] >= 0]
        guess = Prediction(answer[None, :, : NOTHING + 1], answer[None, :, NOTHING + 1 :])
        losses.append(set_prediction_loss(guess, [Objects(objects[:, 0].long(), objects[:, 1:])]))
    torch.testing.assert_close(task.loss(output, target), torch.stack(losses))
    (theirs,) = torch.autograd.grad(torch.stack(losses).sum(), output)
    torch.testing.assert_close(ours, theirs)


def test_average_precision_by_hand():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.4])
    right = torch.tensor([True, True, False, True])
    # by score: right, wrong, right, right; precision 1, 1/2, 2/3, 3/4, so at least 3/4 later
    assert average_precision(scores, right, 4) == pytest.approx((1 + 3 / 4 + 3 / 4) / 4)
    assert average_precision(scores[:0], right[:0], 2) == 0


def answer_of(*guesses):
    """Class, how sure, box."""
    answer = torch.zeros(1, 6, CLASSES + 5)
    answer[0, :, NOTHING] = 50.0
    for place, (digit, sure, box) in enumerate(guesses):
        answer[0, place, NOTHING], answer[0, place, digit] = 0.0, sure
        answer[0, place, NOTHING + 1 :] = torch.tensor(box)
    return answer


HERE, THERE = [0.2, 0.2, 0.3, 0.3], [0.7, 0.7, 0.3, 0.3]
TARGET = torch.tensor([[[3.0, *HERE], [4.0, *THERE], [-1.0] * 5]])


def test_every_object_is_found_once():
    right = match_guesses(answer_of((3, 9.0, HERE), (4, 9.0, THERE)), TARGET)
    assert mean_average_precision(right) == 1
    twice = match_guesses(answer_of((3, 9.0, HERE), (3, 8.0, HERE), (4, 9.0, HERE)), TARGET)
    assert twice[0, 2:9:3].tolist() == [1, 0, 0]
    assert mean_average_precision(twice) == 0.5
    # The score is a probability among the classes and nothing, whatever the box.
    assert right[0, 1].item() == pytest.approx(math.exp(9) / (math.exp(9) + CLASSES), abs=1e-6)
    swapped = match_guesses(answer_of((4, 9.0, HERE), (3, 9.0, THERE)), TARGET)
    assert mean_average_precision(swapped) == 0


def test_a_patch_guesses_a_box_about_itself():
    task = Detect(examples=12)
    still = task.guesses(torch.zeros(1, 49, CLASSES + 5))
    x, y = still[0, 9, NOTHING + 1 : NOTHING + 3].tolist()  # row 1, column 2
    assert (28 * x, 28 * y) == pytest.approx((10, 6))
    far = task.guesses(torch.full((1, 49, CLASSES + 5), 99.0))
    assert float(28 * (far - still)[0, 9, NOTHING + 1]) == pytest.approx(4)


def test_the_loss_is_least_where_the_answer_is_right():
    task = Detect(examples=12)
    target = task.target[:1].double()
    known = target[0, target[0, :, 0] >= 0]
    output = torch.zeros(1, 49, CLASSES + 5).double()
    output[0, :, NOTHING] = 99.0
    for digit, *box in known.tolist():
        middle = torch.tensor(box[:2]).double()
        still = task.guesses(torch.zeros_like(output))[0, :, NOTHING + 1 : NOTHING + 3]
        patch = int((still - middle).norm(dim=-1).argmin())
        output[0, patch, NOTHING], output[0, patch, int(digit)] = 0.0, 99.0
        moved = ((middle - still[patch]) * 28 / 4).atanh()
        output[0, patch, NOTHING + 1 :] = torch.cat([moved, torch.tensor(box[2:]).logit()])
    assert float(task.loss(output, target)) == pytest.approx(0, abs=1e-5)
    assert mean_average_precision(match_guesses(task.guesses(output), target)) == 1
    assert float(task.loss(output.roll(1, dims=1), target)) > 0.5


def test_objects_are_where_the_canvas_is_bright():
    task = Detect(examples=24)
    for image, objects in zip(task.images[:, 0], task.target, strict=True):
        objects = objects[objects[:, 0] >= 0]
        assert len(objects) >= 1
        dark = image.clone()
        for x, y, w, h in (28 * objects[:, 1:]).tolist():
            left, top = round(x - w / 2), round(y - h / 2)
            assert dark[top : top + round(h), left : left + round(w)].any()
            dark[top : top + round(h), left : left + round(w)] = 0
        assert not dark.any()
