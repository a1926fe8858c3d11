"""A short and fixed part of the chaos; `make chaos` runs more of it."""

import pytest

from tests.conftest import OUTSIDE
from tests.faults import chaos
from tests.faults.conftest import MODES


@pytest.mark.parametrize("mode", MODES)
def test_chaos(mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delenv(OUTSIDE, raising=False)

    code = chaos.main(["--seconds", "8", "--seed", "2", "--mode", mode])

    assert code == 0, capsys.readouterr().out
