"""The kit, more patient than it is with its users."""

import pytest

from pgcdc_outbox.testing import Outbox, cleaning


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait as long as a stalled machine takes to end a process, or to drain in many passes."""
    monkeypatch.setattr(cleaning, "_PATIENCE_SECONDS", 60.0)
    for drain in (Outbox.drain, Outbox.adrain):
        monkeypatch.setitem(drain.__kwdefaults__, "timeout", 600.0)
