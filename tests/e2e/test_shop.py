"""The example of a shop, from the request to the last job, with a bank that answers for real."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from pgcdc_outbox.postgres.migrate import migrate
from tests.wait import eventually as within

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]
REFUSED_CENTS = 666


class Bank:
    """A bank of one process: it notes each charge, and can be made to think for ever."""

    def __init__(self) -> None:
        self.charges: list[tuple[str, dict[str, Any]]] = []
        self.answers = threading.Event()
        self.answers.set()
        bank = self

        class Counter(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                bank.charges.append((self.headers["Idempotency-Key"], body))
                bank.answers.wait()
                refused = body["cents"] == REFUSED_CENTS
                answer = json.dumps({"receipt": f"R-{body['order']}"}).encode()
                self.send_response(402 if refused else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Counter)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Shop:
    """The service and its consumer, as processes."""

    def __init__(self, dsn: str, bank: Bank, web: str, environment: dict[str, str]) -> None:
        self.dsn = dsn
        self.bank = bank
        self.web = httpx.Client(base_url=web, timeout=120)
        self._environment = environment

    def rows(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, params)
            return cursor.fetchall() if cursor.description else []

    def offer(self, sku: str, *, cents: int, in_stock: int) -> None:
        self.rows("insert into article values (%s, %s, %s)", sku, cents, in_stock)

    def order(self, sku: str) -> int:
        answer = self.web.post("/orders", json={"customer": "Ada", "sku": sku})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def state(self, order: int) -> str:
        return str(self.web.get(f"/orders/{order}").json()["state"])

    def mails(self) -> list[str]:
        return [text for (text,) in self.rows("select text from mail order by job_id")]

    @contextmanager
    def consumer(self) -> Iterator["subprocess.Popen[str]"]:
        process = self._start(
            "-m", "pgcdc_outbox", "consume", "--handler", "examples.shop.jobs:router",
            "--ordering", "strict_key",
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            _, said = process.communicate(timeout=120)

        assert process.returncode in (0, -signal.SIGKILL), said

    def _start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def bank() -> Iterator[Bank]:
    bank = Bank()
    yield bank
    bank.close()


@pytest.fixture
def shop(database: str, bank: Bank) -> Iterator[Shop]:
    migrate(database)
    environment = os.environ | {
        "PGCDC_OUTBOX_DSN": database,
        "BANK_URL": bank.url,
        "PYTHONPATH": f"src{os.pathsep}.",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = str(listener.fileno())
        web = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "examples.shop.web:app", "--fd", number,
             "--log-level", "warning"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )  # fmt: skip
        shop = Shop(database, bank, f"http://127.0.0.1:{listener.getsockname()[1]}", environment)
        try:
            # Whoever connects before it listens waits in the line of the socket.
            assert shop.web.get("/orders/1").status_code == 404
            yield shop
        finally:
            shop.web.close()
            web.terminate()
            web.wait(120)


def soon(predicate: Callable[[], object]) -> None:
    """Wait for what a process does that was started just now."""
    within(predicate, timeout=120.0)


def test_an_order_is_paid_for_once_and_confirmed(shop: Shop) -> None:
    shop.offer("lamp", cents=1250, in_stock=5)
    order = shop.order("lamp")
    assert shop.state(order) == "placed"

    with shop.consumer():
        soon(lambda: shop.state(order) == "paid")

    assert shop.rows("select in_stock from article") == [(4,)]
    assert [body for _, body in shop.bank.charges] == [{"order": order, "cents": 1250}]
    assert shop.mails() == [f"Thank you. Receipt: R-{order}"]


def test_a_request_that_fails_leaves_no_job(shop: Shop) -> None:
    answer = shop.web.post("/orders", json={"customer": "Ada", "sku": "nothing"})
    assert answer.status_code == 404
    assert (
        shop.rows("select id from outbox.immediate union all select id from outbox.scheduled") == []
    )


def test_what_is_sold_out_or_refused_is_charged_to_nobody(shop: Shop) -> None:
    shop.offer("gone", cents=100, in_stock=0)
    shop.offer("dear", cents=REFUSED_CENTS, in_stock=1)
    gone, dear = shop.order("gone"), shop.order("dear")

    with shop.consumer():
        soon(lambda: shop.state(gone) == "sold_out")
        soon(lambda: shop.rows("select reason from outbox.dead_letter") == [("card refused",)])

    assert [body["order"] for _, body in shop.bank.charges] == [dear]
    assert shop.state(dear) == "reserved"


def test_a_payment_that_was_cut_off_is_in_doubt_and_not_made_again(shop: Shop) -> None:
    shop.offer("lamp", cents=1250, in_stock=5)
    shop.bank.answers.clear()
    order = shop.order("lamp")
    with shop.consumer() as consumer:
        soon(lambda: len(shop.bank.charges) == 1)
        consumer.kill()

    shop.bank.answers.set()
    with shop.consumer():
        soon(lambda: shop.rows("select reason from outbox.dead_letter") == [("in_doubt",)])
        # Whatever else there is goes on.
        other = shop.order("lamp")
        soon(lambda: shop.state(other) == "paid")

    assert [body["order"] for _, body in shop.bank.charges] == [order, other]
    assert shop.state(order) == "reserved"


def test_whoever_has_not_paid_is_reminded(shop: Shop, later: Callable[[Shop], None]) -> None:
    shop.offer("lamp", cents=1250, in_stock=1)
    paid, sold_out = shop.order("lamp"), shop.order("lamp")
    with shop.consumer():
        soon(lambda: shop.state(paid) == "paid" and shop.state(sold_out) == "sold_out")
        later(shop)
        soon(lambda: "Do you still want your order?" in shop.mails())

    assert sorted(shop.mails()) == [
        "Do you still want your order?",
        f"Thank you. Receipt: R-{paid}",
    ]


@pytest.fixture
def later() -> Callable[[Shop], None]:
    """A function that makes it a day later for what is scheduled."""
    return lambda shop: (
        shop.rows("update outbox.scheduled set due_at = due_at - interval '1 day'") and None
    )
