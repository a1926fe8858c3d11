"""A migrated outbox for each test; tests of some modules get one for each way to read it."""

import pytest

from tests.harness import MODES, Outbox


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> str:
    """How consumers of this test read."""
    return str(getattr(request, "param", "logical"))


@pytest.fixture
def outbox(migrated: str, mode: str) -> Outbox:
    """An empty outbox in schema ``outbox``."""
    return Outbox(migrated, mode=mode)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module that says ``IN_BOTH_MODES`` in both."""
    everywhere = getattr(metafunc.module, "IN_BOTH_MODES", False)
    by_mark = metafunc.definition.get_closest_marker("both_modes")
    only_logical = metafunc.definition.get_closest_marker("logical_only")
    if (everywhere or by_mark) and not only_logical and "mode" in metafunc.fixturenames:
        # What polling asks of a version is in test_polling.py and test_switching.py.
        once = [pytest.param(mode, marks=pytest.mark.any_version) for mode in MODES[1:]]
        metafunc.parametrize("mode", [MODES[0], *once], indirect=True)
