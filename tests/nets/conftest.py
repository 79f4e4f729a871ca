"""What is measured against peers is kept for the page of nets."""

import json

import pytest


@pytest.fixture
def hold(record_property):
    """Hold a comparison to a tolerance, and record it under the architecture and its peer.

    `of` says what is compared: their "net", a net of their "layers", or the "loss" as well.
    """

    def hold(architecture, peer, found, tolerance, of="net"):
        record = {"net": architecture, "peer": peer, "of": of, **found.__dict__}
        record_property("parity", json.dumps(record))
        assert found.value < tolerance
        assert found.gradient < tolerance

    return hold
