"""The page of nets has the figures that are measured."""

import re

from benchmarks.nets import COMPARED, PAGE, rows
from tokennet.models import NETS

TEXT = PAGE.read_text()


def test_every_net_is_on_the_page_with_its_figures():
    for row in rows():
        assert row in TEXT, row


def test_peers_are_on_the_page():
    """Every architecture has one: there is none without a peer."""
    architectures = {net.build.__name__ for net in NETS.values()} | {"decoder_stack"}
    row = r"^\| `(\w+)` \| `(.+?)` \| ([^|]+) \| (\S+) \| (\S+) \|$"
    peers = re.findall(row, TEXT, flags=re.M)
    assert {net for net, *_ in peers} == architectures
    for _, _, compared, value, gradient in peers:
        assert compared in COMPARED.values()
        assert float(value) < 1e-12
        assert float(gradient) < 1e-11
