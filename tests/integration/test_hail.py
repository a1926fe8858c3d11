"""Asking at the door of a server."""

import os
import shutil
import subprocess
from typing import Any

import psycopg
import pytest

from pgcdc_outbox.postgres.hail import Door
from tests.wait import eventually


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine may take longer than a consumer waits for an answer."""
    monkeypatch.setattr("pgcdc_outbox.postgres.hail._SECONDS", 60.0)


@pytest.fixture
def encrypted(fresh_server: Any) -> Any:
    """A server that lets nobody in through TCP without TLS."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("there is no openssl to make a certificate")

    server = fresh_server(tcp=True)
    owner = server.data.stat()
    key, certificate = server.data / "server.key", server.data / "server.crt"
    made = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run([openssl, *made.split()], check=True, capture_output=True)
    for file in (key, certificate):
        os.chown(file, owner.st_uid, owner.st_gid)
        file.chmod(0o600)

    hba = server.data / "pg_hba.conf"
    hba.write_text(hba.read_text().replace("host ", "hostssl "))
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        try:
            connection.execute("alter system set ssl = on")
        except psycopg.errors.InvalidParameterValue:
            pytest.skip("this server was built without TLS")

    server.restart()
    return server


def door(dsn: str, *, tls: bool) -> Door:
    place = psycopg.conninfo.conninfo_to_dict(dsn)
    return Door(
        host=str(place["host"]),
        port=int(place["port"] or 5432),
        user=str(place["user"]),
        database=str(place["dbname"]),
        tls=tls,
    )


def test_it_opens_to_some_and_says_why_not_to_others(server: Any) -> None:
    here = door(server.dsn(), tls=False)

    assert here.hail() == ""
    assert door(server.dsn(), tls=True).hail() == ""
    assert door(server.dsn(host="/nowhere"), tls=False).hail() is None


def test_it_is_asked_through_tls_where_it_has_to_be(encrypted: Any) -> None:
    outside = door(encrypted.tcp_dsn(), tls=True)

    assert outside.hail() == ""
    assert door(encrypted.tcp_dsn(), tls=False).hail() == "28000"
    before = encrypted.log.stat().st_size
    with psycopg.connect(encrypted.dsn()) as connection:
        os.kill(encrypted.pid, 15)  # a smart shutdown: this connection may go on
        eventually(lambda: outside.hail() == "57P03")
        connection.execute("select 1")

    eventually(lambda: not encrypted.running)
    said = encrypted.log.read_bytes()[before:]
    assert b"pg_hba" not in said
    assert b"ERROR" not in said
