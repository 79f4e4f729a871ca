"""A transformer is a set function until each token is told where it is."""

import torch

from tokennet import Full, Tokens
from tokennet.nets import IOSpec, build_net
from tokennet.testing import relabeling_error, shuffling_error

spec = IOSpec(in_features=4, out_features=4, readout="token", num_tokens=10, num_coordinates=1)
tokens = Tokens(torch.randn(10, 4), Full(10), pos=torch.arange(10.0)[:, None])

print(f"{'mixer':<11}{'positions':<11}{'relabeling':>12}{'shuffling':>12}   declared")
for mixer, positions in [
    ("attention", "none"),
    ("attention", "pos"),
    ("attention", "index"),
    ("mlp", "none"),
]:
    net = build_net(mixer, spec, dim=16, positions=positions)
    net.warns_of_positions = False  # some of these nets are not to read them
    relabeling, shuffling = relabeling_error(net, tokens), shuffling_error(net, tokens)
    errors = f"{relabeling:>12.0e}{shuffling:>12.0e}"
    print(f"{mixer:<11}{positions:<11}{errors}   {net.symmetry.on(tokens)}")
