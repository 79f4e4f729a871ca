"""One attention layer, one set of parameters, five graphs: which outputs depend on token 0?"""

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
total = 0
for graph in graphs:
    difference = layer(Tokens(changed, graph)).z - layer(Tokens(z, graph)).z
    depends = difference.abs().amax(1) > 1e-6  # (N,)
    assert torch.equal(depends, graph.dense()[:, 0])
    total += int(depends.sum())
    print(f"{''.join('#' if dependent else '.' for dependent in depends)}  {graph}")
print(f"{total} of {len(graphs) * n} outputs depend on token 0")
