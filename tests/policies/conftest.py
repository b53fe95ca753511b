import pytest

from paradox_utils.policies import t5


@pytest.fixture
def products(monkeypatch):
    """Rows that each weight is multiplied with in the passes of T5."""
    seen = {}

    def logged(function):
        def call(rows, weight, *rest):
            seen.setdefault(weight, []).append(tuple(rows.shape[:2]))
            return function(rows, weight, *rest)

        return call

    monkeypatch.setattr(t5, "linear", logged(t5.linear))
    monkeypatch.setattr(t5, "embedding", logged(t5.embedding))
    return seen
