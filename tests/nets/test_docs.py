"""The page of nets has the figures that are measured."""

import re

from benchmarks.nets import PAGE, rows
from tokennet.nets import NETS

TEXT = PAGE.read_text()


def test_every_net_is_on_the_page_with_its_figures():
    for row in rows():
        assert row in TEXT, row


def test_peers_are_on_the_page():
    architectures = {net.build.__name__ for net in NETS.values()} | {"decoder_stack"}
    peers = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (\S+) \| (\S+) \|$", TEXT, flags=re.M)
    assert len(peers) >= 10
    for net, _, value, gradient in peers:
        assert net in architectures
        assert float(value) < 1e-12
        assert float(gradient) < 1e-11
