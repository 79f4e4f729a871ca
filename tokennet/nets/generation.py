"""Generation of sequences from logits: `Sampling` of the next id, and beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tokennet.checks import checked
from tokennet.nets.embedding import check_ids
from tokennet.nets.text import TextNet
from tokennet.tokens import Tokens


@checked(temperature=0)
@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen from logits: the most probable one, or drawn at random.

    `Decoder.generate` makes one of its arguments; use it alone for a generation loop of your own.

    Raises:
        ValueError: a number out of its range.

    >>> Sampling(top_k=1, temperature=1.0)(torch.tensor([[0.0, 3.0, 1.0]]))
    tensor([1])
    """

    temperature: float = 0.0
    """Logits are divided by it; 0 chooses the most probable id."""
    top_k: int | None = None
    """Only the k most probable ids."""
    top_p: float | None = None
    """Only the smallest number of most probable ids that together have probability p (nucleus
    sampling, Holtzman et al., 2019, arXiv 1904.09751)."""
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) logits to (B,) ids."""
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = self.probabilities(logits)
        return torch.multinomial(probabilities, 1, generator=self.generator).squeeze(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, V) logits to the probabilities that are drawn from, (B, V)."""
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            best = logits.topk(self.top_k, dim=-1).indices  # k of them, also where some are equal
            excluded = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, best, False)
            logits = logits.masked_fill(excluded, -torch.inf)
        if self.top_p is not None:
            ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
            before = ordered.cumsum(-1) - ordered  # probability of all that are more probable
            excluded = torch.zeros_like(before, dtype=torch.bool)
            excluded.scatter_(-1, order, before >= self.top_p)
            logits = logits.masked_fill(excluded, -torch.inf)
        return logits.softmax(-1)


class NextLogits:
    """Logits of the next id: by incremental decoding, or by a run on all ids each time.

    Args:
        net: reads ids, and has a readout of logits for each token.
        source: what its cross-attention attends to, a row for each sequence; or None.
        use_cache: keep keys, values and other states; if not, all ids are run each time.
        context: only this number of last ids is read, without the cache once there are more.
    """

    def __init__(
        self, net: TextNet, source: Tokens | None, use_cache: bool, context: int | None
    ) -> None:
        self.net, self.source, self.use_cache, self.context = net, source, use_cache, context
        self.state: Any = None
        self.seen = 0

    def __call__(self, ids: Tensor) -> Tensor:
        """(B, N) ids so far to (B, V) logits of the next.

        Raises:
            IncrementalDecodingError: a layer needs all ids at once.
        """
        total = ids.shape[1]
        cut = self.context is not None and total > self.context
        tokens = self.net.tokens(ids[:, -self.context :] if cut else ids)  # type: ignore[operator]
        if cut or not self.use_cache:
            return self.net(tokens, self.source)[:, -1]
        seen, self.seen = self.seen, total
        new = Tokens(tokens.z[:, seen:], pos=None if tokens.pos is None else tokens.pos[seen:])
        graph = tokens.graph.last(total - seen)
        logits, self.state = self.net.step(new, graph, self.state, self.source)
        return logits[:, -1]

    def select(self, rows: Tensor) -> None:
        """Continue with these rows of the batch, some perhaps more than once."""
        self.state = tree_map_only(Tensor, lambda part: part.index_select(0, rows), self.state)


def sample(
    logits_of: NextLogits,
    ids: Tensor,
    max_new_tokens: int,
    choose: Callable[[Tensor], Tensor],
    stops: Tensor,
) -> Tensor:
    """Continue (B, N) ids by at most `max_new_tokens`; a row that has ended repeats its last id."""
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        chosen = choose(logits_of(ids)).where(~ended, ids[:, -1])
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        ended = ended | torch.isin(chosen, stops)
        if ended.all():
            break
    return ids


def beam_search(
    logits_of: NextLogits,
    ids: Tensor,
    max_new_tokens: int,
    num_beams: int,
    stops: Tensor,
    length_penalty: float,
) -> Tensor:
    r"""Continue (B, N) ids by the most probable sequences that `num_beams` hypotheses lead to.

    They are compared at the end by \sum log p / m^{length_penalty} for m new ids. A hypothesis
    that has ended stays among the others, unchanged.
    """
    count = len(ids)
    total = ids.new_full((count, num_beams), 0, dtype=torch.float64)  # log p
    total[:, 1:] = -torch.inf  # all hypotheses start equal: continue with one
    ids = ids.repeat_interleave(num_beams, 0)
    ended, length = torch.zeros_like(total, dtype=torch.bool), torch.zeros_like(total)
    first = torch.arange(count, device=ids.device)[:, None] * num_beams
    for _ in range(max_new_tokens):
        log_p = logits_of(ids).double().log_softmax(-1).unflatten(0, (count, num_beams))
        last = ids.view(count, num_beams, -1)[..., -1:]
        repeat = torch.full_like(log_p, -torch.inf).scatter(-1, last, 0.0)  # of ended hypotheses
        log_p = torch.where(ended[..., None], repeat, log_p)  # (B, beams, V)
        vocab = log_p.shape[-1]
        total, index = (total[..., None] + log_p).flatten(1).topk(num_beams, dim=1)  # (B, beams)
        parent, chosen = index // vocab, index % vocab
        rows = (first + parent).flatten()
        ids = torch.cat([ids[rows], chosen.view(-1, 1)], dim=1)
        logits_of.select(rows)
        ended, length = ended.gather(1, parent), length.gather(1, parent)
        length = length + ~ended
        ended = ended | torch.isin(chosen, stops)
        if ended.all():
            break
    best = (total / length.clamp(min=1) ** length_penalty).argmax(1)
    return ids[first.flatten() + best]


def run_by_length(
    rows: Sequence[Tensor],
    run: Callable[[Tensor, list[int]], Tensor],
    stops: Tensor,
    start: int | None = None,
) -> list[Tensor]:
    """Run rows of the same length together, without padding; results end with their first stop.

    Args:
        rows: 1-D tensors.
        run: from (B, N) rows and their numbers to (B, N') results.
        start: where in a result to look for stops; after the ids of its row if None.
    """
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(len(row), []).append(number)
    results = {}
    for size, numbers in groups.items():
        begin = size if start is None else start
        batch = run(torch.stack([rows[number] for number in numbers]), numbers)
        for number, ids in zip(numbers, batch, strict=True):
            found = torch.isin(ids[begin:], stops).nonzero().flatten().tolist()
            results[number] = ids[: begin + found[0] + 1] if found else ids
    return [results[number] for number in range(len(rows))]


def stop_ids(eos_token_id: int | Sequence[int] | None, device: torch.device) -> Tensor:
    """The ids after which a sequence ends, (K,)."""
    if eos_token_id is None:
        return torch.empty(0, dtype=torch.long, device=device)
    ids = torch.as_tensor(eos_token_id, device=device).flatten()
    return check_ids("eos_token_id", ids) if len(ids) else ids.long()
