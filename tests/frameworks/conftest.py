"""What the tests of every adapter begin with."""

import pytest

from server_session import _sessions


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    # Others of the same process may have left a default, as Django's do.
    monkeypatch.setattr(_sessions, "_configured", None)
