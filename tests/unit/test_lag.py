"""Thresholds and sizes."""

import pytest

from pgcdc_outbox.core.lag import Level, Thresholds, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("1kB", 1024),
        ("256MB", 256 * 1024**2),
        ("1.5 gb", 1536 * 1024**2),
        ("2TB", 2 * 1024**4),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "1 PB", "-1MB", "1MB2", "1..5MB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("behind", "level"),
    [(0, Level.OK), (9, Level.OK), (10, Level.WARNING), (19, Level.WARNING), (20, Level.CRITICAL)],
)
def test_reaching_a_threshold_counts(behind, level):
    assert Thresholds(warn=10, critical=20).judge(behind) is level
