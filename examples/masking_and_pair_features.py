"""A language model by hand: pairs of words vote for the next word, and a mask selects the pairs.

After "Transformers from scratch" by Brandon Rohrer (https://e2eml.school/transformers.html): to
know what follows "ran", a model must look back to "program" or "battery", eight words before. A
second-order model with skips pairs the last word with each earlier word, at any distance. It is
written three times: as features in a matrix, as attention and a token-wise function in matrices,
and as layers of the library. The three agree exactly.
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
    """(pairs, V) the share of the pair's occurrences that are followed by each word."""
    counts = torch.zeros(len(EARLIER), V)
    for words in SENTENCES:
        last = words.index(LAST)
        for word in words[:last]:
            counts[EARLIER.index(word), WORDS.index(words[last + 1])] += 1
    return counts / counts.sum(1, keepdim=True)


VOTES = count_votes()
SURE = (VOTES.max(dim=1).values == 1).float()
"""(pairs,) the mask: 1 for pairs whose votes all go to one word, 0 for pairs that do not help."""


# 1. As features: a row for each word of the sentence, a column for each pair.
def features(words: list[str]) -> Tensor:
    """(N, pairs) 1 where a pair ends."""
    result = torch.zeros(len(words), len(EARLIER))
    for i, last in enumerate(words):
        for word in words[:i]:
            if last == LAST and word in EARLIER:
                result[i, EARLIER.index(word)] += 1
    return result


def by_features(words: list[str], masked: bool) -> Tensor:
    """(N, V) votes for the word after each word."""
    return (features(words) * (SURE if masked else 1)) @ VOTES


# 2. As matrices: the mask is looked up by queries and keys, pairs are made by a matrix and a ReLU.
MASK = torch.zeros(V, V)
MASK[WORDS.index(LAST)] = SURE @ one_hot(EARLIER)
"""In the row of the last word, the earlier words that the mask keeps; other rows are not needed."""
TO_PAIRS = torch.cat(  # (2 V, pairs): the last word, and one of the earlier words
    [one_hot([LAST]).T.expand(V, len(EARLIER)), one_hot(EARLIER).T]
)


def attended(words: list[str], masked: bool) -> Tensor:
    """(N, V) for each word the sum of the earlier words, of all or of those that its mask keeps."""
    x = one_hot(words)  # (N, V)
    queries, keys = x @ MASK, x  # the query of "ran" is its row of the mask
    weights = queries @ keys.T if masked else torch.ones(len(words), len(words))  # (N, N)
    return weights.tril(-1) @ x


def pair_network(z: Tensor) -> Tensor:
    """(N, 2 V) to (N, V): matrix, ReLU, matrix; 1 + 1 - 1 is 1 where both words are present."""
    return (z @ TO_PAIRS - 1).relu() @ VOTES


def by_matrices(words: list[str], masked: bool) -> Tensor:
    """(N, V) votes for the word after each word."""
    return pair_network(torch.cat([one_hot(words), attended(words, masked)], dim=1))


# 3. As layers: z has V channels for the word itself and V for what it receives from others.
def language_model(mixer: Mixer) -> TokenNet:
    """Attend to earlier words, keep the word itself, then apply one function to every token."""
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
def attention_to_all() -> Aggregate:
    """Without a mask: the sum of the earlier words."""
    mixer = Aggregate(2 * V, "sum")
    mixer.linear.weight.copy_(block(torch.eye(V), 1, 0))
    mixer.linear.bias.zero_()
    return mixer


@torch.no_grad()
def attention_by_mask() -> Attention:
    """The mask as queries and keys: the score is so large that all other weights are exactly 0.

    Softmax divides 1 among the words that the mask keeps; here it keeps a single word.
    """
    mixer = Attention(2 * V, num_heads=1, bias=False)
    sharp = 1000 * (2 * V) ** 0.5  # Attention divides scores by the root of its channels
    mixer.query.weight.copy_(block(sharp * MASK.T, 0, 0))
    mixer.key.weight.copy_(block(torch.eye(V), 0, 0))
    mixer.value.weight.copy_(block(torch.eye(V), 0, 0))
    mixer.out.weight.copy_(block(torch.eye(V), 1, 0))
    return mixer


def as_tokens(words: list[str]) -> Tokens:
    """Each word attends to the earlier words, not to itself."""
    n = len(words)
    return Tokens(torch.cat([one_hot(words), torch.zeros(n, V)], dim=1), Causal(n) & ~Self(n))


def by_layers(words: list[str], masked: bool) -> Tensor:
    """(N, V) votes for the word after each word."""
    with torch.no_grad():
        mixer = attention_by_mask() if masked else attention_to_all()
        return language_model(mixer)(as_tokens(words)).z


def down_and_please(votes: Tensor) -> str:
    down, please = (float(votes[WORDS.index(word)]) for word in ("down", "please"))
    return f"down {down:g}, please {please:g}"


def listed(values: Tensor, words: list[str]) -> str:
    return ", ".join(
        f"{word} {value:g}" for word, value in zip(words, values.tolist(), strict=True)
    )


def explain(words: list[str]) -> None:
    """Print the steps from the last word, "ran", to the votes for the next word."""
    last = words.index(LAST)
    print(f"\n{' '.join(words[: last + 1]).capitalize()} ...")
    print(f"  features    {listed(features(words)[last], EARLIER)}")
    print(f"  votes       {down_and_please(by_features(words, masked=False)[last])}")
    print(f"  times mask  {listed(features(words)[last] * SURE, EARLIER)}")
    print(f"  votes       {down_and_please(by_features(words, masked=True)[last])}")
    x = one_hot(words)
    print(f"  Q K^T       {listed((x @ MASK @ x.T)[last, :last], words[:last])}")
    z = torch.cat([x, attended(words, masked=True)], dim=1)
    for i, label in ((last - 1, "at 'it'"), (last, "at 'ran'")):
        print(f"  {label:<11} {listed((z @ TO_PAIRS - 1)[i], EARLIER)}")
    print(f"  ReLU        {listed((z @ TO_PAIRS - 1).relu()[last], EARLIER)}")
    print(f"  votes       {down_and_please(by_matrices(words, masked=True)[last])}")
    tokens = as_tokens(words)
    to_last = tokens.graph.edge_index()[1] == last
    weights = attention_by_mask().attention_weights(tokens).detach()[to_last, 0]
    print(f"  Attention   {listed(weights, words[:last])}")
    print(f"  votes       {down_and_please(by_layers(words, masked=True)[last])}")


def main() -> None:
    print(f"Votes of the pairs (word, {LAST}) for the next word, counted in two sentences:")
    for word, row, sure in zip(EARLIER, VOTES, SURE, strict=True):
        print(f"  {word:>8}, {LAST}: {down_and_please(row):<24} {'sure' if sure else ''}".rstrip())
    compared = 0
    for words in SENTENCES:
        explain(words)
        for masked in (False, True):
            votes = by_features(words, masked)
            assert torch.equal(by_matrices(words, masked), votes)
            assert torch.equal(by_layers(words, masked), votes)
            compared += votes.numel()
    print(f"\nFeatures, matrices and layers agree exactly on all {compared} votes.")


if __name__ == "__main__":
    main()
