"""Releases and what is known to be wrong with them."""

import pytest

from pgcdc_outbox.postgres.doctor import releases
from pgcdc_outbox.postgres.doctor.finding import Result


def said(major, minor):
    return [
        (each.result, each.title.partition(": ")[2][:20]) for each in releases.server(major, minor)
    ]


@pytest.mark.parametrize(("major", "minor"), [(14, 18), (15, 13), (16, 9), (17, 5)])
def test_the_releases_that_take_memory_without_end(major, minor):
    assert (Result.WARNING, "DDL can make logical") in said(major, minor)
    assert (Result.NOTE, "a slot can be moved ") in said(major, minor)
    for other in (minor - 1, minor + 1):
        assert Result.WARNING not in {result for result, _ in said(major, other)}


@pytest.mark.parametrize(("major", "minor"), [(14, 23), (15, 18), (16, 14), (17, 10), (18, 4)])
def test_releases_without_known_trouble(major, minor):
    assert said(major, minor) == []
    (finding,) = releases.server(major, minor - 1)
    assert finding.remedy == (f"# install PostgreSQL {major}.{minor} or a later minor release",)


def test_a_version_that_is_not_known_has_no_known_trouble():
    assert said(19, 0) == []


@pytest.mark.parametrize(
    ("version", "tls", "count"),
    [
        (180004, True, 1),
        (180005, True, 0),
        (180004, False, 0),
        (170010, True, 1),
        (130020, True, 1),
    ],
)
def test_libpq_matters_with_tls(version, tls, count):
    assert len([*releases.libpq(version, tls=tls)]) == count
