"""The documentation, taken at its word: its snippets run, its links lead somewhere.

Blocks of one page run in order, in one database and one folder, as if a reader typed them.
A python block that begins with ``# name.py`` is saved under that name. A block is only
compiled if ``<!-- only compiled: why -->`` stands above it.
"""

import ast
import asyncio
import configparser
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import click
import psycopg
import pytest
from msgspec import toml
from psycopg.conninfo import conninfo_to_dict

from pgcdc_outbox import Client, Consumer, Maintenance, RetryPolicy, Router
from pgcdc_outbox.cli.main import COMMANDS, cli
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.settings import Consume, Settings, decode

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FRONT = ROOT / "README.md"
EXAMPLES = ROOT / "examples" / "README.md"
EFFECTS = DOCS / "effects.md"
PAGES = [FRONT, EXAMPLES, *sorted(DOCS.rglob("*.md"))]
LINKING = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))]

# What a reader types that has no place in a test: it makes environments, or stays for ever.
NOT_RUN = ("make ", "cd ", "export ", "pip install ", "psql ", "python -m benchmarks")

# How a program is started here. A plugin that is installed is found; here it is named.
PROGRAMS = {
    "pgcdc-outbox": ["pgcdc_outbox"],
    "pytest": ["pytest", "-p", "anyio", "-p", "pgcdc_outbox.testing.plugin", "-W", "error"],
}

# Commands that go on until somebody ends them, and what makes them end by themselves.
ENDING = {"consume": ["--once"], "maintain": ["--once"]}

LANGUAGES = {"python", "sql", "sh", "toml", "ini", "text", "mermaid", ""}

_BLOCK = re.compile(
    r"(?:^<!-- (?P<why>only compiled: [^>]+) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_SOURCE = re.compile(r"`((?:cli|consumer|core|postgres|sql)/[\w/]+(?:\.py|/))`")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    is_run: bool


class Reader:
    """Does what a page says, in a folder and a database of its own."""

    def __init__(self, page: Path, uri: str) -> None:
        self._page = page
        self._uri = uri
        self._names: dict[str, Any] = {"__name__": page.stem}
        self.output = ""
        """What the commands have printed."""

    def follow_page(self) -> None:
        """Do everything, from top to bottom."""
        for block in blocks(self._page):
            self.follow(block)

    def close(self) -> None:
        """Close what a page leaves open, as the end of a program would."""
        for value in self._names.values():
            if isinstance(value, Client | psycopg.Connection):
                value.close()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Look what became of it."""
        with psycopg.connect(self._uri, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def follow(self, block: Block) -> None:
        """Run a block, or compile it."""
        match block.language:
            case "python":
                self._python(block)
            case "sql" if block.is_run:
                with psycopg.connect(self._uri, autocommit=True) as connection:
                    connection.execute(block.text.encode())
            case "sh" if block.is_run:
                for line in _commands(block.text):
                    self.shell(line)
            case "toml":
                decode(toml.decode(block.text), source=f"{self._page.name}:{block.line}")
            case "ini":
                configparser.ConfigParser(strict=False, interpolation=None).read_string(block.text)

    def _python(self, block: Block) -> None:
        # As many lines above it as on the page, so that a traceback points there.
        text = "\n" * block.line + block.text
        code = compile(text, str(self._page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if not block.is_run:
            return

        names = self._names
        if named := re.match(r"# (\w+\.py)\n", block.text):
            Path(named[1]).write_text(block.text)
            names = {"__name__": named[1].removesuffix(".py")}

        result = eval(code, names)
        if inspect.iscoroutine(result):
            asyncio.run(result)

    def shell(self, line: str) -> None:
        """Run a command; it has to succeed."""
        program, *arguments = shlex.split(line, comments=True)
        assert program in PROGRAMS, f"{line!r} is neither run nor listed as not run"
        ending = [word for name in arguments for word in ENDING.get(name, [])]
        done = subprocess.run(
            [sys.executable, "-m", *PROGRAMS[program], *_without_every(arguments), *ending],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        self.output += done.stdout


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(
            language=match["language"],
            text=match["text"],
            line=text.count("\n", 0, match.start("text")),
            is_run=match["why"] is None,
        )
        for match in _BLOCK.finditer(text)
    ]


def _commands(text: str) -> Iterator[str]:
    """The lines of a shell block that are to be run; a backslash continues a line."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith(("#", *NOT_RUN)):
            yield line


def _without_every(arguments: list[str]) -> list[str]:
    """The arguments, without what would make a command go on."""
    if "--every" not in arguments:
        return arguments

    place = arguments.index("--every")
    return arguments[:place] + arguments[place + 2 :]


def _as_uri(dsn: str, scheme: str = "postgresql") -> str:
    """The DSN as every driver reads it."""
    given = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    user, database = given.pop("user"), given.pop("dbname")
    password = f":{quote(given.pop('password'), safe='')}" if "password" in given else ""
    return f"{scheme}://{quote(user)}{password}@/{quote(database)}?{urlencode(given)}"


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def reader(
    request: pytest.FixtureRequest,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Reader]:
    page: Path = request.param
    uri = _as_uri(database)
    monkeypatch.setenv("PGCDC_OUTBOX_DSN", uri)
    monkeypatch.setenv("DATABASE_URL", _as_uri(database, "postgresql+psycopg"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PGCDC_OUTBOX_TEST_DSN", uri)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if page != FRONT:
        _set_the_scene(uri)
        Path("jobs.py").write_text("def handle(jobs): pass\n")

    reader = Reader(page, uri)
    yield reader
    reader.close()


def _set_the_scene(uri: str) -> None:
    """What pages other than the README take for granted: an outbox, orders, a dead letter."""
    migrate(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("create table orders (id bigint primary key, total numeric not null)")
        connection.execute(
            """
            insert into outbox.dead_letter
                (consumer, id, reason, attempt, created_at, topic, payload, errors)
            select 'default', id, 'exhausted', 10, now(), 'order.paid', '{"order": 1}',
                   '[{"attempt": 10, "at": "2026-11-20T10:00:00.000Z", "error": "E", "text": "no"}]'
            from generate_series(4711, 4713) as id
            """
        )


@pytest.mark.parametrize(
    "reader", [page for page in PAGES if blocks(page)], ids=_named, indirect=True
)
def test_a_page_does_what_it_says(reader: Reader) -> None:
    reader.follow_page()


@pytest.mark.parametrize("reader", [FRONT], ids=_named, indirect=True)
def test_the_readme_delivers_what_it_enqueues(reader: Reader) -> None:
    reader.follow_page()
    assert "1 order.paid {'order': 42}" in reader.output
    assert reader.rows("select count(*) from orders") == [(4,)]

    # The second handler of the page gets the other three, and puts one off.
    reader.shell("pgcdc-outbox consume --handler jobs:handle")
    assert reader.rows("select body::json ->> 'order' from outbox.job where state = 'failed'") == [
        ("45",)
    ]
    assert reader.rows("select topic from outbox.scheduled order by due_at") == [
        ("order.remind",),
        ("report",),
    ]
    assert reader.rows("select count(*) from outbox.dead_letter") == [(0,)]


@pytest.mark.parametrize("reader", [EXAMPLES], ids=_named, indirect=True)
def test_the_example_writes_its_mail_once(reader: Reader) -> None:
    reader.follow_page()
    assert reader.rows("select address from mail") == [("a@example.org",)]


@pytest.mark.parametrize("reader", [EFFECTS], ids=_named, indirect=True)
def test_the_effects_of_the_page_are_there(reader: Reader) -> None:
    reader.follow_page()
    assert reader.rows("select id, total from orders where total > 1 order by id") == [
        (42, Decimal("13.5")),
        (43, Decimal(7)),
    ]
    assert reader.rows("select payload from outbox.dead_letter where reason = 'in_doubt'") == [
        (b'{"id":44}',)
    ]


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_block_is_closed_and_in_a_language_we_know(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(blocks(page))
    assert {block.language for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", LINKING, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text("utf-8")):
        if "://" in target:
            continue

        place, _, anchor = target.partition("#")
        path = (page.parent / place).resolve() if place else page
        assert path.is_relative_to(ROOT), target
        assert path.exists(), target
        if anchor:
            assert anchor in _anchors(path), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_tests_that_are_named_exist(page: Path) -> None:
    for path, name in _TEST.findall(page.read_text("utf-8")):
        assert re.search(rf"^\s*(?:def|async def|class) {name}\b", (ROOT / path).read_text(), re.M)


def test_files_that_the_architecture_names_exist() -> None:
    named = _SOURCE.findall((DOCS / "architecture.md").read_text("utf-8"))
    assert len(named) > 10
    assert [path for path in named if not (ROOT / "src" / "pgcdc_outbox" / path).exists()] == []


def _described(page: str) -> set[str]:
    """What stands between backticks on a page of docs."""
    return set(re.findall(r"`([^`\n]+)`", (DOCS / page).read_text("utf-8")))


@pytest.mark.parametrize("subject", [Consumer, Client, Maintenance, RetryPolicy, Router, Router.on])
def test_every_parameter_is_described(subject: type) -> None:
    parameters = set(inspect.signature(subject).parameters) - {"self"}
    assert parameters <= _described("configuration.md")


def test_every_key_of_the_file_is_described() -> None:
    keys = {*Settings.__struct_fields__, *(f"consume.{key}" for key in Consume.__struct_fields__)}
    assert keys - {"consume"} <= _described("configuration.md")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str) -> None:
    command = import_module(f"pgcdc_outbox.cli.{COMMANDS[name][0]}").command
    assert {f"pgcdc-outbox {name}", *_options(command)} <= _described("configuration.md")


def test_every_global_option_is_described() -> None:
    own = {option for parameter in cli.params for option in parameter.opts}
    assert own <= _described("configuration.md")


def _options(command: click.Command) -> set[str]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    return own.union(*(_options(each) for each in below))
