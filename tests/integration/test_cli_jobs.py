"""`jobs` and `replay` on the command line: what they print, and their exit codes."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgcdc_outbox import Dead
from pgcdc_outbox.cli.main import cli
from tests.harness import Outbox, Recorder, consumer

pytestmark = pytest.mark.any_version

LONG = 3600.0


@pytest.fixture
def run(outbox: Outbox) -> Any:
    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["--dsn", outbox.dsn, *arguments], **options)

    return invoke


async def test_show_and_list(outbox: Outbox, run: Any) -> None:
    (id_,) = outbox.put([{"order": 1}], topic="order.\x1b[31mpaid")
    fate = Recorder(lambda jobs: {jobs[0].id: Dead("no\x1b[31m use")})
    await consumer(outbox, fate).run(once=True)
    result = run("jobs", "show", str(id_))
    assert result.exit_code == 0
    for text in (f"job {id_}", "consumer default: dead", '{"order":1}', "ATTEMPT", "no"):
        assert text in result.stdout

    assert "\x1b" not in result.stdout
    shown = json.loads(run("jobs", "show", str(id_), "--format", "json").stdout)
    assert shown["consumers"][0]["attempts"][0]["outcome"] == "dead"
    assert shown["consumers"][0]["attempts"][0]["seconds"] >= 0

    result = run("jobs", "show", "99")
    assert result.exit_code == 1
    assert "the highest id given out is 1" in result.stdout

    result = run("jobs", "list", "--state", "dead")
    assert result.stdout.splitlines()[1].split()[:3] == [str(id_), "dead", "default"]
    assert "\x1b" not in result.stdout
    assert run("jobs", "list", "--age", "1h", "--since", "2026-01-01").exit_code == 2
    assert run("jobs", "list", "--age", "1ms").stdout == "no jobs\n"
    outbox.put(range(5))
    assert "only the newest 3 rows of immediate" in run("jobs", "list", "--look-at", "3").stderr


def test_cancel_says_true_or_false_and_why(outbox: Outbox, run: Any) -> None:
    later, sooner = outbox.put([1, 2], delay=LONG)
    result = run("jobs", "cancel", str(later))
    assert (result.exit_code, result.stdout) == (0, f"{later} true: it was scheduled\n")
    result = run("jobs", "cancel", str(later), str(sooner), "77", "--format", "json")
    assert result.exit_code == 1
    answers = json.loads(result.stdout)
    assert [each["cancelled"] for each in answers] == [False, True, False]
    assert "highest id" in answers[2]["reason"]


def test_replay_counts_asks_and_copies(outbox: Outbox, run: Any) -> None:
    outbox.put([1, 2], topic="a")
    result = run("replay", "--since", "2026-01-01", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[:2] == ["a", "2"]
    assert outbox.value("select count(*) from immediate") == 2

    assert run("replay", "--since", "2026-01-01", input="n\n").exit_code == 1
    assert outbox.value("select count(*) from immediate") == 2
    assert run("replay", "--since", "2026-01-01", input="y\n").stdout == "replayed 2\n"
    result = run("replay", "--since", "2026-01-01", "--yes", "--format", "json")
    assert json.loads(result.stdout)["replayed"] == 2
    assert run("replay", "--since", "2026-01-01", "--yes", "--after", "x").exit_code == 1


def test_a_replay_that_fails_says_where_to_go_on(outbox: Outbox, run: Any) -> None:
    outbox.put(range(4))
    outbox.rows(
        "create function stop() returns trigger language plpgsql as $$ begin "
        "if convert_from(new.payload, 'UTF8') = '2' and new.headers is not null "
        "then raise 'enough'; end if; return new; end $$"
    )
    outbox.rows(
        "create trigger stop before insert on immediate_default "
        "for each row execute function stop()"
    )
    result = run("replay", "--since", "2026-01-01", "--yes", "--batch-size", "2")
    assert result.exit_code == 1
    assert "stopped after 2 jobs" in result.stderr
    place = result.stderr.split("--after ")[1].split()[0]
    outbox.rows("drop trigger stop on immediate_default")
    result = run("replay", "--since", "2026-01-01", "--yes", "--after", place)
    assert result.stdout == "replayed 2\n"
