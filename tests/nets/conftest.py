"""What is measured against peers is kept for the page of nets."""

import json

import pytest


@pytest.fixture
def hold(record_property):
    """Hold a comparison to a tolerance, and record it under the architecture and its peer."""

    def hold(architecture, peer, found, tolerance):
        record = {"net": architecture, "peer": peer, **found.__dict__}
        record_property("parity", json.dumps(record))
        assert found.value < tolerance
        assert found.gradient < tolerance

    return hold
