"""The command line: global options, commands loaded when called, errors as two lines.

Nothing heavy is imported here: `--help` must answer before a person wonders.
"""

import sys
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from pgcdc_outbox.cli.options import Options
from pgcdc_outbox.errors import OutboxError

# Name of a command: its module, and what `--help` says, so that listing the
# commands loads none of them.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "migrate": ("migrate", "Create the outbox, or bring it up to date."),
    "consume": ("consume", "Run a handler on the jobs of the outbox."),
    "routes": ("routes", "Show the routes of a router, the most specific pattern first."),
    "enqueue": ("enqueue", "Enqueue one job, and print its id."),
    "status": ("status", "Show the outbox on one screen."),
    "lag": ("lag", "Show how far each consumer is behind."),
    "doctor": ("doctor", "Check the setup, and say what mends it."),
    "maintain": ("maintain", "Make partitions ahead of time and drop settled ones."),
    "schedule": ("schedule", "Add, list, pause, resume or remove schedules."),
    "slot": ("slot", "Show, make, drop or replace the slot of a consumer."),
    "dead": ("dead", "List, show, retry, resolve, discard or purge dead letters."),
    "jobs": ("jobs", "Show, list or cancel single jobs."),
    "replay": ("replay", "Put copies of jobs in line again, in their old order."),
    "bench": ("bench", "Measure on your own database."),
    "demo": ("demo", "See it work, on a server of its own."),
}

# Codes of commands for which 1, or 1 and 2, are answers.
_ERROR_CODES: Final[dict[str | None, int]] = {
    "lag": 3,
    "doctor": 3,
    "maintain": 3,
    "slot": 3,
    "routes": 3,
}
_INTERRUPTED: Final = 130


class Commands(click.Group):
    """Commands by name, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None

        module, _ = COMMANDS[cmd_name]
        command = import_module(f"pgcdc_outbox.cli.{module}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(_INTERRUPTED)
        except click.UsageError as error:
            error.show()
            ctx.exit(_ERROR_CODES.get(ctx.invoked_subcommand, error.exit_code))
        except (click.ClickException, click.exceptions.Exit):
            raise
        except OutboxError as error:
            _fail(ctx, error, str(error), error.hint)
        except Exception as error:
            _fail(
                ctx,
                error,
                f"{type(error).__name__}: {error}",
                "This was not foreseen: --debug shows where. Please report it.",
            )


def _fail(ctx: click.Context, error: Exception, message: str, hint: str) -> NoReturn:
    """Say what went wrong and what to do about it, a line each."""
    options = ctx.find_object(Options)
    if options is None:  # it was not even made
        raise error

    lines = [f"error: {_one_line(message)}"]
    if hint:
        lines.append(f"hint: {_one_line(hint)}")

    if options.debug:
        from traceback import format_exception

        lines.insert(0, "".join(format_exception(error)).rstrip())

    click.echo(options.without_password("\n".join(lines)), err=True)
    ctx.exit(_ERROR_CODES.get(ctx.invoked_subcommand, 1))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version  # it takes longer than all of --help

        click.echo(f"pgcdc-outbox {version('pgcdc-outbox')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--dsn",
    envvar="PGCDC_OUTBOX_DSN",
    show_envvar=True,
    metavar="DSN",
    help="Where the database is; else from --config, else libpq's PG* variables.",
)
@click.option("--schema", metavar="NAME", help="Schema of the outbox.  [default: outbox]")
@click.option(
    "--config",
    metavar="FILE",
    help="A TOML file with dsn, schema and the settings of [consume].",
)
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version)
@click.pass_context
def cli(
    ctx: click.Context, dsn: str | None, schema: str | None, config: str | None, debug: bool
) -> None:
    """A transactional outbox for PostgreSQL."""
    ctx.obj = Options(dsn=dsn, schema=schema, config=config, debug=debug)


def main() -> None:
    """Run the command line."""
    sys.exit(cli.main(prog_name="pgcdc-outbox"))
