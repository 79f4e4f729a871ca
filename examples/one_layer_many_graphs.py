"""One attention layer, one set of parameters, five graphs: who hears of a change in token 0?"""

import torch

from tokennet import Attention, Causal, Cycle, Full, Global, Tokens, Window

n = 12
layer = Attention(dim=16, num_heads=4)
z = torch.randn(n, 16)
changed = z.clone()
changed[0] += 1.0

graphs = [
    Full(n),
    Causal(n),
    Cycle(n, radius=1),
    Causal(n) & Window(n, radius=3),
    Window(n, radius=1) | Global(n, k=1),
]
heard = 0
for graph in graphs:
    difference = layer(Tokens(changed, graph)).z - layer(Tokens(z, graph)).z
    listens = difference.abs().amax(1) > 1e-6
    assert torch.equal(listens, graph.dense()[:, 0])
    heard += int(listens.sum())
    print(f"{''.join('#' if one else '.' for one in listens)}  {graph}")
print(f"{heard} of {len(graphs) * n} tokens hear of it")
