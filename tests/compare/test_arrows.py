"""The task of arrows: who points at what, and how far a net can see."""

import math

import pytest
import torch

from tokennet.compare import TASKS, NetSpec, Width
from tokennet.compare.metric import classes
from tokennet.compare.tasks.arrows import ARROW, ARROWS, SIDE, of_arrows, share_right

STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


@pytest.fixture(scope="module")
def task():
    return TASKS["arrows"](examples=300)


def test_each_arrow_has_the_first_digit_in_its_way(task):
    digit_of = torch.full((len(task.pictures),), -1)
    from tokennet.compare.tasks.digits import digit_images

    pools, first = digit_images(), 4
    for split in ("train", "test"):
        for digit, images in enumerate(pools[split]):
            digit_of[first : first + len(images)] = digit
            first += len(images)
    for number in range(len(task.target)):
        shown = dict(zip(task.cells[number].tolist(), task.shown[number].tolist(), strict=True))
        for digit, distance, cell in task.target[number].tolist():
            row, column = divmod(cell, SIDE)
            down, right = STEPS[shown[cell]]
            for steps in range(1, SIDE):
                place = (row + steps * down) * SIDE + column + steps * right
                if place in shown:
                    break
            assert steps == distance
            assert digit_of[shown[place]] == digit


def test_cells_are_pictures_and_arrows_point_where_they_say(task):
    (board,) = task.pixels(torch.tensor([0]))
    for cell, picture in zip(task.cells[0].tolist(), task.shown[0].tolist(), strict=True):
        assert torch.equal(board[cell].view(8, 8), task.pictures[picture])
    blank = sorted(set(range(36)) - set(task.cells[0].tolist()))
    assert len(blank) == 23
    assert not board[blank].any()
    up, right, down, left = task.pictures[:4]
    assert torch.equal(up, ARROW)
    assert up[:3].sum() > up[5:].sum()
    assert right[:, 5:].sum() > right[:, :3].sum()
    assert down[5:].sum() > down[:3].sum()
    assert left[:, :3].sum() > left[:, 5:].sum()


def test_the_handwriting_of_the_test_is_not_seen_in_training(task):
    splits = task.splits(0)
    train, test = (set(task.shown[splits[name], ARROWS:].flatten().tolist()) for name in splits)
    assert not train & test
    assert all(size > 100 for size in (len(train), len(test)))


def test_the_loss_and_the_scores_are_of_the_arrows_alone(task):
    batch = task.batch(torch.arange(4), "full")
    output = torch.randn(4, 36, 10)
    rows = torch.stack([output[n, batch.target[n, :, 2]] for n in range(4)])
    assert torch.equal(of_arrows(output, batch.target), rows)
    torch.testing.assert_close(task.loss(output, batch.target), classes(rows, batch.target[..., 0]))
    rows = torch.tensor([[[1.0, 1], [0, 1], [1, 3]]])
    assert share_right(rows) == pytest.approx(2 / 3)
    assert (share_right(rows, steps=1), share_right(rows, steps=3)) == (0.5, 1.0)
    assert math.isnan(share_right(rows, steps=2))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_net_of_radius_one_sees_as_many_cells_away_as_it_is_deep(task, depth):
    config = task.config.__class__(**{**vars(task.config), "depth": depth})
    net = task.build(NetSpec("attention", "grid"), config, Width(16, 16)).eval()
    tokens = task.batch(torch.tensor([0]), "grid").tokens
    z = tokens.z.clone().requires_grad_()
    corner = net(tokens.replace(z=z))[0, 0].sum()
    (seen,) = torch.autograd.grad(corner, z)
    along_the_row = seen[0, :SIDE].abs().sum(-1) > 0
    assert along_the_row.tolist() == [column <= depth for column in range(SIDE)]


def test_the_nearest_neighbor_reads_the_row_and_the_column_of_the_arrow(task):
    index = torch.tensor([5])
    crosses, digits = task._surroundings(index)
    assert crosses.shape == (ARROWS, 2 * 11 * 64)
    assert torch.equal(digits, task.target[5, :, 0])
    (board,) = task.pixels(index)
    for cross, (_, _, cell) in zip(crosses, task.target[5].tolist(), strict=True):
        row, column = divmod(cell, SIDE)
        up_and_down, across = cross.view(2, 11, 64)
        for step in range(-5, 6):
            inside = 0 <= row + step < SIDE
            wanted = board[(row + step) * SIDE + column] if inside else torch.zeros(64)
            assert torch.equal(up_and_down[step + 5], wanted)
            inside = 0 <= column + step < SIDE
            wanted = board[row * SIDE + column + step] if inside else torch.zeros(64)
            assert torch.equal(across[step + 5], wanted)
