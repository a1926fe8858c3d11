"""A short and fixed part of the chaos; `make chaos` runs more of it."""

import pytest

from tests.faults import chaos
from tests.faults.conftest import MODES


@pytest.mark.parametrize("mode", MODES)
def test_chaos(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = chaos.main(["--seconds", "8", "--seed", "2", "--mode", mode])

    assert code == 0, capsys.readouterr().out
