"""Chaos: everything at once, in an order that a seed decides, and a closing account.

    python -m tests.faults.chaos [--seconds 60] [--seed N] [--mode logical] [--ordering none]

Prints a line for each thing that it breaks. Exits with 1 if anything promised did not hold,
with the evidence; the files that it was found in are kept. A seed gives the same troubles in
the same order, though not at the same microsecond.
"""

import argparse
import random
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

from psycopg.conninfo import conninfo_to_dict

from pgcdc_outbox.core.lanes import Ordering
from pgcdc_outbox.postgres.source.reading import Mode
from pgcdc_outbox.testing import PostgresServer
from tests.faults.producers import Busy
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.faults.trouble import Arrangement, troubles

BACK_WITHIN = 120.0
"""Seconds after which work has to go on, whatever was broken."""

PRODUCERS = 3

SHOWN = 10
"""Violations that are printed; there is seldom one alone."""


def main(arguments: list[str]) -> int:
    """Run, and return the exit code."""
    options = parse(arguments)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"chaos: seed {options.seed}, {options.seconds:.0f} s, {options.mode}, in {folder}")
    with ExitStack() as stack:
        a = arrange(stack, options, folder)
        violations = wreak_havoc(a, options.seconds, options.mode)
        violations += close(a)

    for violation in violations[:SHOWN]:
        print(f"VIOLATION: {violation}")

    if violations:
        print(f"{len(violations)} violations with seed {options.seed}; see {folder}")
        return 1

    shutil.rmtree(folder)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to break things")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--mode", default="logical", choices=get_args(Mode), help="how they read")
    parser.add_argument("--ordering", default="none", choices=get_args(Ordering), help="of keys")
    parser.add_argument("--instances", type=int, default=3, help="consumers at once")
    parser.add_argument("--concurrency", type=int, default=1, help="calls at once in each")
    return parser.parse_args(arguments)


def arrange(stack: ExitStack, options: argparse.Namespace, folder: Path) -> Arrangement:
    """A server, a network in front of it, and a scene of which only the consumers use that."""
    server = stack.enter_context(PostgresServer.start(tcp=True))
    network = stack.enter_context(Proxy("127.0.0.1", port(server)))
    scene = Scene(server.create_database("chaos"), folder, options.mode)
    stack.callback(scene.close)
    scene.order(options.ordering)
    scene.ordered = scene.ordered or (options.ordering == "none" and options.concurrency == 1)
    scene.crew.dsn = server.tcp_dsn("chaos", port=network.port)
    return Arrangement(
        server=server,
        network=network,
        scene=scene,
        chance=random.Random(options.seed),
        instances=options.instances,
        concurrency=options.concurrency,
    )


def wreak_havoc(a: Arrangement, seconds: float, mode: str) -> list[str]:
    """Break one thing after the other; what went wrong besides."""
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(a.scene.watched())
        for n in range(PRODUCERS):
            seed = a.chance.randrange(10**6)
            stack.enter_context(Busy(a.scene.dsn, a.scene.truth, name=f"p{n}", seed=seed))

        while time.monotonic() < started + seconds:
            a.fill_up()
            trouble = a.chance.choice(troubles(mode))
            name = trouble.__name__.replace("_", " ")
            begun = time.monotonic()
            print(f"{begun - started:7.1f}  {name}", end="", flush=True)
            try:
                trouble(a)
                ended = time.monotonic()
                a.fill_up()
                a.scene.executed(20, timeout=BACK_WITHIN)
            except (AssertionError, OSError) as error:
                print("  FAILED")
                return [f"{name}: {type(error).__name__}: {error}"]

            back = time.monotonic() - ended
            print(f"  took {ended - begun:.1f} s, at work again after {back:.1f} s", flush=True)
            time.sleep(a.chance.uniform(0, 1))

    return []


def close(a: Arrangement) -> list[str]:
    """Let everything come to its end, and give account."""
    a.network.heal()
    a.server.resume()
    violations = []
    try:
        # Some were told to be slow, and would take their time for what has gathered.
        for worker in a.scene.crew.alive:
            worker.at_work()
            assert worker.stop() == 0, worker.log.read_text()

        audit = a.scene.conclude(timeout=300.0)
    except AssertionError as error:
        audit = a.scene.audit()
        violations = audit.violations or [f"{type(error).__name__}: {error}"]

    print("\nbroken:")
    for what, count in sorted(a.scene.truth.counted.items()):
        print(f"  {count:7}  {what}")

    print("account:")
    for what, count in audit.account.items():
        print(f"  {count:7}  {what}")

    return violations


def port(server: PostgresServer) -> int:
    return int(conninfo_to_dict(server.tcp_dsn())["port"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
