"""A language model by hand: pairs of words vote for the next one, a mask says which pairs may.

After "Transformers from scratch" by Brandon Rohrer (https://e2eml.school/transformers.html): to
know what follows "ran", one must look back to "program" or "battery", eight words before. A
second-order model with skips pairs the last word with each earlier one, however far. Written
three times: as features in a matrix, as attention and a token-wise function in matrices, and as
layers of the library; the three agree exactly.
"""

import torch
from torch import Tensor, nn

from tokennet import (
    Aggregate,
    Attention,
    Causal,
    Mixer,
    Residual,
    Self,
    TokenNet,
    Tokens,
    TokenWise,
)

TEXT = """check the program log and find out whether it ran please
check the battery log and find out whether it ran down please"""
SENTENCES = [line.split() for line in TEXT.splitlines()]
WORDS = list(dict.fromkeys(SENTENCES[0] + SENTENCES[1]))
V = len(WORDS)
LAST = "ran"
EARLIER = [word for word in WORDS if word not in (LAST, "down", "please")]
"""The pair features are (word, ran) for each of these."""


def one_hot(words: list[str]) -> Tensor:
    """(N, V), a row for each word."""
    return torch.eye(V)[[WORDS.index(word) for word in words]]


def count_votes() -> Tensor:
    """(pairs, V) how often a word came next where a pair was seen, as a share."""
    counts = torch.zeros(len(EARLIER), V)
    for words in SENTENCES:
        place = words.index(LAST)
        for word in words[:place]:
            counts[EARLIER.index(word), WORDS.index(words[place + 1])] += 1
    return counts / counts.sum(1, keepdim=True)


VOTES = count_votes()
SURE = (VOTES.max(dim=1).values == 1).float()
"""(pairs,) the mask: 1 for pairs whose votes all go to one word, 0 for those of no help."""


# 1. As features: a row for each place in the sentence, a column for each pair.
def features(words: list[str]) -> Tensor:
    """(N, pairs) 1 where a pair ends."""
    result = torch.zeros(len(words), len(EARLIER))
    for place, last in enumerate(words):
        for word in words[:place]:
            if last == LAST and word in EARLIER:
                result[place, EARLIER.index(word)] += 1
    return result


def by_features(words: list[str], masked: bool) -> Tensor:
    """(N, V) votes for the word after each word."""
    return (features(words) * (SURE if masked else 1)) @ VOTES


# 2. As matrices: the mask is looked up by queries and keys, pairs are made by a matrix and a ReLU.
MASK = torch.zeros(V, V)
MASK[WORDS.index(LAST)] = SURE @ one_hot(EARLIER)
"""In the row of the last word, which earlier words are to be left; other rows are not needed."""
TO_PAIRS = torch.cat(  # (2 V, pairs): the last word, and one of the earlier words
    [one_hot([LAST]).T.expand(V, len(EARLIER)), one_hot(EARLIER).T]
)


def attended(words: list[str], masked: bool) -> Tensor:
    """(N, V) for each word those before it, all of them or those that its mask leaves."""
    x = one_hot(words)  # (N, V)
    queries, keys = x @ MASK, x  # the query of "ran" is its row of the mask
    weights = queries @ keys.T if masked else torch.ones(len(words), len(words))  # (N, N)
    return weights.tril(-1) @ x


def pair_network(z: Tensor) -> Tensor:
    """(N, 2 V) to (N, V): matrix, ReLU, matrix; 1 + 1 - 1 is 1 where both words are there."""
    return (z @ TO_PAIRS - 1).relu() @ VOTES


def by_matrices(words: list[str], masked: bool) -> Tensor:
    """(N, V) votes for the word after each word."""
    return pair_network(torch.cat([one_hot(words), attended(words, masked)], dim=1))


# 3. As layers: z has V channels for the word itself and V for what it has heard.
def heard(mixer: Mixer) -> TokenNet:
    """Listen to earlier words, keep the word itself, then the same function on every token."""
    pairs = nn.Linear(2 * V, len(EARLIER))
    votes = nn.Linear(len(EARLIER), V, bias=False)
    with torch.no_grad():
        pairs.weight.copy_(TO_PAIRS.T)
        pairs.bias.fill_(-1)
        votes.weight.copy_(VOTES.T)
    return TokenNet([Residual(mixer), TokenWise(nn.Sequential(pairs, nn.ReLU(), votes))])


def block(matrix: Tensor, row: int, column: int) -> Tensor:
    """(2 V, 2 V) zeros but for `matrix` in one of the four blocks."""
    result = torch.zeros(2, V, 2, V)
    result[row, :, column] = matrix
    return result.view(2 * V, 2 * V)


@torch.no_grad()
def listen_to_all() -> Aggregate:
    """Without a mask: the sum of the earlier words."""
    mixer = Aggregate(2 * V, "sum")
    mixer.linear.weight.copy_(block(torch.eye(V), 1, 0))
    mixer.linear.bias.zero_()
    return mixer


@torch.no_grad()
def listen_by_mask() -> Attention:
    """The mask as queries and keys: so large a score that softmax gives all else exactly 0.

    Softmax shares 1 among the words that the mask keeps; here it keeps one.
    """
    mixer = Attention(2 * V, num_heads=1, bias=False)
    sharp = 1000 * (2 * V) ** 0.5  # Attention divides scores by the root of its channels
    mixer.query.weight.copy_(block(sharp * MASK.T, 0, 0))
    mixer.key.weight.copy_(block(torch.eye(V), 0, 0))
    mixer.value.weight.copy_(block(torch.eye(V), 0, 0))
    mixer.out.weight.copy_(block(torch.eye(V), 1, 0))
    return mixer


def as_tokens(words: list[str]) -> Tokens:
    """Each word listens to those before it, not to itself."""
    n = len(words)
    return Tokens(torch.cat([one_hot(words), torch.zeros(n, V)], dim=1), Causal(n) & ~Self(n))


def by_layers(words: list[str], masked: bool) -> Tensor:
    """(N, V) votes for the word after each word."""
    with torch.no_grad():
        return heard(listen_by_mask() if masked else listen_to_all())(as_tokens(words)).z


def against(votes: Tensor) -> str:
    down, please = (float(votes[WORDS.index(word)]) for word in ("down", "please"))
    return f"down {down:g}, please {please:g}"


def listed(values: Tensor, words: list[str]) -> str:
    return ", ".join(
        f"{word} {value:g}" for word, value in zip(words, values.tolist(), strict=True)
    )


def tell(words: list[str]) -> None:
    """Walk through what comes after "ran"."""
    place = words.index(LAST)
    print(f"\n{' '.join(words[: place + 1]).capitalize()} ...")
    print(f"  features    {listed(features(words)[place], EARLIER)}")
    print(f"  votes       {against(by_features(words, masked=False)[place])}")
    print(f"  times mask  {listed(features(words)[place] * SURE, EARLIER)}")
    print(f"  votes       {against(by_features(words, masked=True)[place])}")
    x = one_hot(words)
    print(f"  Q K^T       {listed((x @ MASK @ x.T)[place, :place], words[:place])}")
    z = torch.cat([x, attended(words, masked=True)], dim=1)
    for where, word in ((place - 1, "at 'it'"), (place, "at 'ran'")):
        print(f"  {word:<11} {listed((z @ TO_PAIRS - 1)[where], EARLIER)}")
    print(f"  ReLU        {listed((z @ TO_PAIRS - 1).relu()[place], EARLIER)}")
    print(f"  votes       {against(by_matrices(words, masked=True)[place])}")
    tokens = as_tokens(words)
    here = tokens.graph.edge_index()[1] == place
    weights = listen_by_mask().weights(tokens).detach()[here, 0]
    print(f"  Attention   {listed(weights, words[:place])}")
    print(f"  votes       {against(by_layers(words, masked=True)[place])}")


def main() -> None:
    print(f"Votes of the pairs (word, {LAST}) for the next word, counted in two sentences:")
    for word, row, sure in zip(EARLIER, VOTES, SURE, strict=True):
        print(f"  {word:>8}, {LAST}: {against(row):<24} {'sure' if sure else ''}".rstrip())
    compared = 0
    for words in SENTENCES:
        tell(words)
        for masked in (False, True):
            votes = by_features(words, masked)
            assert torch.equal(by_matrices(words, masked), votes)
            assert torch.equal(by_layers(words, masked), votes)
            compared += votes.numel()
    print(f"\nFeatures, matrices and layers agree exactly on all {compared} votes.")


if __name__ == "__main__":
    main()
