"""From networkx to a picture: which side does each member of a karate club join when it splits?

Two labels are known, those of the teacher and the officer; attention along friendships predicts
the others. Data: Zachary, 1977, as shipped with networkx.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import networkx as nx
import torch

from tokennet import Self, Tokens, from_networkx
from tokennet.interpret import trace_attention
from tokennet.nets import IOSpec, build_net

torch.manual_seed(0)
club = nx.karate_club_graph()
graph = from_networkx(club) | Self(len(club))
side = torch.tensor([int(club.nodes[member]["club"] == "Officer") for member in club])
tokens = Tokens(torch.eye(len(club)), graph)

net = build_net(
    "attention",
    IOSpec(in_features=34, out_features=2, readout="token", num_tokens=34),
    dim=16,
    depth=2,
    hidden=0,
    dropout=0.7,
)
optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=5e-3)
known = [0, 33]
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(tokens)[known], side[known]).backward()
    optimizer.step()

net.eval()
with torch.no_grad():
    prediction = net(tokens).argmax(1)
    weights = trace_attention(net, tokens)["layers.1.layer"].weights
    weights = weights.mean(-1)  # (E,), heads averaged

edges = graph.edge_index().t().tolist()
shown = nx.DiGraph()
shown.add_nodes_from(club)
for (u, v), weight in zip(edges, weights.tolist(), strict=True):
    if u != v:
        shown.add_edge(u, v, weight=weight)
figure, axis = plt.subplots(figsize=(7, 6), layout="constrained")
nx.draw_networkx(
    shown,
    nx.spring_layout(club, seed=1),
    ax=axis,
    node_color=["tab:orange" if officer else "tab:blue" for officer in prediction.tolist()],
    width=[4 * data["weight"] for *_, data in shown.edges(data=True)],
    edge_color="0.6",
    font_color="white",
    arrows=False,
)
axis.set_title("Attention along friendships; color: the predicted side")
axis.axis("off")
figure.savefig("karate_club.png", dpi=100)
correct = int((prediction == side).sum())
print(f"{correct} of {len(club)} predictions are correct; see karate_club.png")
