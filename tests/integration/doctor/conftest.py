"""An outbox to break."""

import psycopg
import pytest

from pgcdc_outbox.postgres.migrate import migrate
from tests.integration.doctor.patient import Patient


@pytest.fixture
def patient(database):
    migrate(database)
    return Patient(database)


@pytest.fixture
def connection(patient):
    with psycopg.connect(patient.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def hospital(fresh_server):
    """A function that gives a server with settings, and a migrated outbox on it."""

    def start(**settings):
        server = fresh_server(settings={name: str(value) for name, value in settings.items()})
        dsn = server.create_database("doctor")
        migrate(dsn)
        return server, Patient(dsn)

    return start


@pytest.fixture
def execute():
    """Run a statement on an outbox and give its rows."""

    def run(patient, statement, *params):
        with psycopg.connect(patient.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), params)
            return cursor.fetchall() if cursor.description else []

    return run
