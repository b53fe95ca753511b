"""What tests of judges share."""

import pytest

from tests.conftest import answered


@pytest.fixture(scope="session")
def many():
    return answered(600, seed=9)
