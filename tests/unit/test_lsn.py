"""Positions in the log."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgcdc_outbox.lsn import LSN

FORM = re.compile("[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
quick = settings(max_examples=100, deadline=None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0/0", 0),
        ("0/1", 1),
        ("1/0", 1 << 32),
        ("16/B374D848", 0x16_B374D848),
        ("16/b374d848", 0x16_B374D848),
        ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1),
    ],
)
def test_it_reads_what_postgresql_writes(text: str, value: int) -> None:
    lsn = LSN.parse(text)

    assert isinstance(lsn, LSN)
    assert lsn == value
    assert str(lsn) == text.upper()


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "0", "0/", "/0", "1/2/3", "G/0", "0/G", "-1/0", "0/-1", "+1/0", "0x1/0",
        "1_0/0", " 1/0", "1/0\n", "100000000/0", "0/100000000", "٣/0",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        LSN.parse(text)


@quick
@given(st.text("0123456789abcdefABCDEF/-+_x ", max_size=20))
def test_it_is_as_strict_as_the_server(text: str) -> None:
    if FORM.fullmatch(text):
        high, low = text.split("/")
        assert str(LSN.parse(text)) == f"{int(high, 16):X}/{int(low, 16):X}"
    else:
        with pytest.raises(ValueError, match="not an LSN"):
            LSN.parse(text)


@quick
@given(st.integers(0, (1 << 64) - 1))
def test_what_is_written_is_read_back(value: int) -> None:
    assert LSN.parse(str(LSN(value))) == value


def test_the_difference_is_bytes_of_log() -> None:
    assert LSN.parse("1/10") - LSN.parse("0/FFFFFFF0") == 32


def test_it_is_ordered_as_the_log_is() -> None:
    assert LSN.parse("0/FFFFFFFF") < LSN.parse("1/0")


def test_its_representation_says_what_it_is() -> None:
    assert repr(LSN(255)) == "LSN('0/FF')"
