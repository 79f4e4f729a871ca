"""Curves are drawn only where a test looks at them, for that takes as long as the training."""

import pytest


@pytest.fixture
def drawn():
    """Asks for the picture of the curves."""


@pytest.fixture(autouse=True)
def _no_curves(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("tokennet.compare.store.draw_curves", lambda *_: b"not drawn")
