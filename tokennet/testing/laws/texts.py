"""What `tokennet check --why` prints of the laws of `equivariance.py`, which has no room for it."""

NODES = """\
Says: the order of tokens does not matter: permuted tokens give permuted outputs, and the same
pooled output.
Measured: everything that has an entry for each token (features, masks, pairs, edges, positions)
is permuted together; values are compared, and where these agree, gradients.
Causes: positions by index, a recurrence, a convolution, a flatten before a linear layer: by
design in a sequence model, a bug in a set or graph model; a class token or a slice x[:, 0] as
readout.
Mend: encode positions from the data (pos, edges) and not from the index; pool by mean, sum, max
or attention.
"""

TIES = """\
Says: the order of tokens does not matter where tokens are equal, or tie in a feature.
Measured: as node_permutation, on inputs in which tokens are repeated or agree in a channel.
Causes: sort, argmax, topk and unique, which break ties by the index; tables that are looked up by
rank.
Mend: break ties by further features, or treat equal values alike, such as by means over ties.
"""

EDGES = """\
Says: the order in which the edges of a graph are listed does not matter.
Measured: edge_index and all that has an entry for each edge is permuted together; outputs for
nodes are compared.
Causes: code that expects edges sorted by target; edge features that are used beside another list
of edges; scatter by assignment, where the last edge wins.
Mend: sort within forward, and the edge features with it; scatter by a sum, mean or maximum.
"""
