"""The line of pg_hba.conf."""

import pytest

from pgcdc_outbox.postgres.access import hba_line

WHOM = 'user "worker", database "shop"'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f'host "10.0.0.5", {WHOM}, no encryption', "host shop worker 10.0.0.5/32 scram-sha-256"),
        (
            f'host "10.0.0.5", {WHOM}, SSL encryption',
            "hostssl shop worker 10.0.0.5/32 scram-sha-256",
        ),
        (f'host "::1", {WHOM}, no encryption', "host shop worker ::1/128 scram-sha-256"),
        (f'host "[local]", {WHOM}, no encryption', "local shop worker scram-sha-256"),
        (
            'host "10.0.0.5", user "It worker", database "all", no encryption',
            'host "all" "It worker" 10.0.0.5/32 scram-sha-256',
        ),
    ],
)
def test_the_line(text, line):
    prefix = 'connection to server at "db", port 5432 failed: FATAL:  no pg_hba.conf entry for '
    assert hba_line(prefix + text) == line


def test_other_errors_have_none():
    assert hba_line('FATAL:  password authentication failed for user "worker"') == ""
