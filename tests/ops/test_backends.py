"""Every registered backend keeps the contract of backends."""

import pytest

from tests.contracts.backends import NAMES, BackendContract


@pytest.mark.parametrize("backend", NAMES)
class TestBackends(BackendContract):
    pass
