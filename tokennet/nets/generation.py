"""Completing sequences: one id after the other, or several hypotheses at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tokennet.tokens import Tokens

if TYPE_CHECKING:
    from tokennet.nets.text import Decoder


class Scores:
    """Scores of the next id, step by step, with what earlier steps left behind or without.

    Args:
        net: a decoder.
        source: what its cross-attention listens to, a row for each sequence; or None.
        cache: keep keys, values and other states; if not, the whole is run at each step.
        context: only the last so many ids are read, without the cache once there are more.
    """

    def __init__(
        self, net: Decoder, source: Tokens | None, cache: bool, context: int | None = None
    ) -> None:
        self.net, self.source, self.cache, self.context = net, source, cache, context
        self.state: Any = None
        self.seen = 0

    def next(self, ids: Tensor) -> Tensor:
        """(B, N) ids so far to (B, V) scores of the next."""
        total = ids.shape[1]
        cut = self.context is not None and total > self.context
        whole = self.net.tokens(ids[:, -self.context :] if cut else ids)  # type: ignore[operator]
        if cut or not self.cache:
            return self.net(whole, self.source)[:, -1]
        seen, self.seen = self.seen, total
        new = Tokens(whole.z[:, seen:], pos=None if whole.pos is None else whole.pos[seen:])
        graph = whole.graph.last(total - seen)
        try:
            scores, self.state = self.net.step(new, graph, self.state, self.source)
        except TypeError as error:
            if "incremental decoding" not in str(error):
                raise
            raise TypeError(f"{error}; cache=False runs the whole each time instead") from error
        return scores[:, -1]

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows, some perhaps more than once."""

        def pick(part: Any) -> Any:
            return part.index_select(0, rows) if isinstance(part, Tensor) else part

        self.state = tree_map(pick, self.state)


def sample(
    scores: Scores, ids: Tensor, length: int, choose: Callable[[Tensor], Tensor], stop: Tensor
) -> Tensor:
    """Continue (B, N) ids by at most `length`; a row that has stopped repeats its last id."""
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(length):
        chosen = choose(scores.next(ids)).where(~done, ids[:, -1])
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        done = done | torch.isin(chosen, stop)
        if done.all():
            break
    return ids


def beam_search(
    scores: Scores, ids: Tensor, length: int, beams: int, stop: Tensor, length_penalty: float
) -> Tensor:
    r"""Continue (B, N) ids by the likeliest sequences that `beams` hypotheses lead to.

    Those compared at the end have score \sum log p / m^{length_penalty} for m new ids; one
    that has stopped waits, unchanged, among the others.
    """
    count = len(ids)
    total = ids.new_full((count, beams), 0, dtype=torch.float64)
    total[:, 1:] = -torch.inf  # all hypotheses begin alike: go on with one
    ids = ids.repeat_interleave(beams, 0)
    done = torch.zeros_like(total, dtype=torch.bool)
    made = torch.zeros_like(total)
    first = torch.arange(count, device=ids.device)[:, None] * beams
    for _ in range(length):
        step = scores.next(ids).double().log_softmax(-1).unflatten(0, (count, beams))  # (B, W, V)
        step = _only_waiting(step, done, ids.view(count, beams, -1)[..., -1])
        size = step.shape[-1]
        total, place = (total[..., None] + step).flatten(1).topk(beams, dim=1)  # (B, W)
        parent, chosen = place // size, place % size
        rows = (first + parent).flatten()
        ids = torch.cat([ids[rows], chosen.view(-1, 1)], dim=1)
        scores.reorder(rows)
        done, made = done.gather(1, parent), made.gather(1, parent)
        made = made + ~done
        done = done | torch.isin(chosen, stop)
        if done.all():
            break
    best = (total / made.clamp(min=1) ** length_penalty).argmax(1)
    return ids[first.flatten() + best]


def _only_waiting(step: Tensor, done: Tensor, last: Tensor) -> Tensor:
    """A hypothesis that has stopped repeats its last id, at no cost."""
    waiting = torch.full_like(step, -torch.inf).scatter(-1, last[..., None], 0.0)
    return torch.where(done[..., None], waiting, step)


def per_length(
    rows: Sequence[Tensor],
    run: Callable[[Tensor, list[int]], Tensor],
    stop: Tensor,
    start: int | None = None,
) -> list[Tensor]:
    """Run rows of a length together, so that none is padded; results are cut at their stop.

    Args:
        rows: 1-D tensors.
        run: from (B, N) rows and their numbers to (B, N') results.
        start: how many ids of a result are not looked at for stops; those of its row if None.
    """
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(len(row), []).append(number)
    results = {}
    for size, numbers in groups.items():
        together = run(torch.stack([rows[number] for number in numbers]), numbers)
        for number, ids in zip(numbers, together, strict=True):
            results[number] = _cut(ids, size if start is None else start, stop)
    return [results[number] for number in range(len(rows))]


def _cut(ids: Tensor, start: int, stop: Tensor) -> Tensor:
    """(N,) ids up to the first stop after the first `start`, which is kept."""
    found = torch.isin(ids[start:], stop).nonzero().flatten()
    return ids if not len(found) else ids[: start + int(found[0]) + 1]


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; modes are put back afterwards."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
