"""What all commands share at their edge: exit codes, one-line errors, settings, output. Knows no command.

A command that only explains itself has to be quick: whatever opens a database or reads a file is imported where that is
done, here as in every module that declares a command.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from db import private
from workers.errors import NoSuchRun, Sam3Error, Unreachable, UsageError, first_line
from workers.variables import PREFIX, linked_services, own_variables

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

    from db.patience import Patience
    from db.session import Sessions
    from workers.settings import Settings

INTERRUPTED = 130
RUN_FILE = "run.yaml"  # what makes a folder that of a sam3-run
DATABASE_RUN = "run:"  # stands before the name of a run of the database where the name alone could mean a folder
_CONFIG = "sam3.config"  # where a context keeps the config file's keys


class Sam3Command(click.Command):
    """A command whose flags are also `SAM3_*` variables and keys of `--config`, and which fails in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["--config"],
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                is_eager=True,  # before the flags that take their defaults from it
                expose_value=False,
                callback=_read_config,
                help="YAML file with any of these flags as keys.",
            ),
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks of errors."),
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=tell_versions,
                help="Show versions.",
            ),
        ]

    def main(  # type: ignore[override]  # click lets it return, as programs do not
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run as a program. The wrapped function's return value is the exit code; None means 0."""
        given = list(sys.argv[1:] if args is None else args)
        prog = prog_name or Path(sys.argv[0]).name
        if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that the terminal does not have is spelled out
            sys.stdout.reconfigure(errors="backslashreplace")
        for name in linked_services(os.environ):
            del os.environ[name]
        debug = "--debug" in given or os.environ.get(f"{PREFIX}DEBUG", "") not in ("", "0", "false")
        try:
            code = super().main(
                given, prog, standalone_mode=False, auto_envvar_prefix=PREFIX.rstrip("_"), max_content_width=110
            )
        except (KeyboardInterrupt, click.Abort):
            code = INTERRUPTED
        except Exception as error:
            if debug:
                import traceback

                traceback.print_exc()
            code, line = _explain(error)
            say(f"{prog}: error: {line}")
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the one line for an error."""
    match error:
        case Sam3Error():
            return error.exit_code, str(error)
        case click.UsageError():
            hint = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
            return UsageError.exit_code, error.format_message().replace("\n", " ").rstrip(".") + hint
        case click.ClickException():
            return UsageError.exit_code, error.format_message()
    return _explain_database(error) or (
        1,
        f"unexpected {type(error).__name__}: {first_line(error)}; run it again with --debug for the traceback",
    )


def _explain_database(error: Exception) -> tuple[int, str] | None:
    """The same for what a database may raise; None for anything else."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    from db.session import DatabaseUnusable, OutcomeUnknown
    from db.views.status import RunGone

    match error:
        case RunGone():
            return NoSuchRun.exit_code, "the run was deleted meanwhile; sam3-status lists those that there are"
        case DatabaseUnusable():
            return UsageError.exit_code, str(error)
        case OutcomeUnknown():
            return Unreachable.exit_code, f"{error}; the same command again goes on from there"
        case DBAPIError() if isinstance(error, OperationalError) or error.detail:
            return Unreachable.exit_code, _database_fault(error)
    return None


def _database_fault(error: "DBAPIError") -> str:
    from sqlalchemy.exc import OperationalError

    from db.refusals import is_busy, refusal

    if isinstance(error, OperationalError) and is_busy(error):
        return "another process holds the database for too long; end that one or try again"
    return f"the database cannot be used: {refusal(error)}"


def _read_config(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    _warn_of_unknown_variables(context)
    if path is not None:
        from workers.cli.config_file import read_config

        context.meta[_CONFIG] = context.default_map = read_config(path, context.command.params)


def _warn_of_unknown_variables(context: click.Context) -> None:
    """Say which variables mean nothing. Only where there is one that this command does not know are others asked."""
    own = [parameter.name or "" for parameter in context.command.params]
    if own_variables(os.environ) <= {PREFIX + name.upper() for name in own}:
        return
    from workers.cli.flags import all_flags
    from workers.settings import unknown_variables

    if unknown_variables(os.environ, own):
        for warning in unknown_variables(os.environ, all_flags()):
            say(f"warning: {warning}")


def settings(**flags: Any) -> "Settings":
    """The settings of the running command: flags, then the environment, then the config file, then defaults."""
    from workers.settings import Settings, load_settings

    context = click.get_current_context()
    config = context.meta.get(_CONFIG, {})
    below = {
        key: config[key]
        for key in Settings.model_fields
        if key in config and not os.environ.get(PREFIX + key.upper())  # an empty variable counts as not set
    }
    found = load_settings(**(below | {name: value for name, value in flags.items() if value is not None}))
    private.share(found.shared)
    return found


def open_database(
    url: str,
    connections: int = 2,
    *,
    create: bool = False,
    run_file: Path | None = None,
    patience: "Patience | None" = None,
) -> "Sessions":
    """Connect and bring the schema up to date (SQLite) or check it. Raises `Unreachable` or `DatabaseUnusable`.

    `connections` is the most that this process holds open on PostgreSQL. Only with `create` an SQLite database is made
    where there is none: commands that merely look at one must not make an empty one of a mistyped name. `run_file` is
    that of the sam3-run folder which the database belongs to, if the settings do not name it. `patience` is how its
    sessions wait for a database that goes away later: half a minute if nothing is given.
    """
    from db.migrate import ensure_schema
    from db.session import connect

    with told_database_faults(url, create=create, run_file=run_file):
        sessions = connect(url, connections=connections, create=create, patience=patience)
        ensure_schema(sessions, create=create)
    return sessions


def identified(settings: "Settings", sessions: "Sessions") -> "Settings":
    """The settings, and whose doorbells these are: nodes and broker tools need to know the database by its identity."""
    from db.session import read
    from db.views.status import identity

    return settings.model_copy(update={"identity": read(sessions, identity)})


@contextmanager
def told_database_faults(url: str, *, create: bool, run_file: Path | None = None) -> Iterator[None]:
    """Turn what a database that cannot be opened raises into an `Unreachable` that says who named it."""
    from sqlalchemy.exc import DatabaseError

    from db.refusals import is_busy
    from db.session import DatabaseUnusable, NoDatabase, describe_failure

    try:
        yield
    except NoDatabase as error:
        again = "the same sam3-run command again makes what is missing"
        advice = f"it belongs to {run_file}: {again}" if run_file else _database_advice(create)
        raise Unreachable(f"{describe_failure(error, url)}; {advice}") from None
    except DatabaseUnusable as error:
        raise DatabaseUnusable(f"{error}; it belongs to {run_file}" if run_file else str(error)) from None
    except DatabaseError as error:  # not there, not ours to open, or no database at all
        said = describe_failure(error, url)
        if not is_busy(error):
            said += f"; it belongs to {run_file}" if run_file else f"; {_database_advice(create=True)}"
        raise Unreachable(said) from None


def _database_advice(create: bool) -> str:
    """Where a database that cannot be used is named, and what to do about it."""
    begin = "" if create else ", or begin with sam3-enqueue --csv FILE --prompt TEXT"
    if named := setting_origin("database_url"):
        return f"{named} names it: correct that{begin}"
    folder = setting_origin("state_dir")
    where = f"it is in the folder that {folder} names" if folder else "that is the default place"
    return f"{where}: set SAM3_DATABASE_URL to the one you mean{begin}"


def setting_origin(name: str) -> str | None:
    """Where the running command has a setting from: a variable or the config file; None if it is the default."""
    variable = PREFIX + name.upper()
    if os.environ.get(variable):
        return variable
    context = click.get_current_context(silent=True)
    return f"{name} in the --config file" if context and name in context.meta.get(_CONFIG, {}) else None


def say(line: str) -> None:
    """Tell the person something, in one line whatever it quotes: never data."""
    click.echo(printable(line), err=True)


def printable(line: str) -> str:
    """The text in one line, whatever it holds."""
    return "".join(char if char.isprintable() else _spelled(char) for char in line)


def _spelled(char: str) -> str:
    """What would end the line or command the terminal, as `\\n` or `\\x1b`."""
    return char.encode("unicode_escape").decode()


def spelled_run(name: str) -> str:
    """RUN as the next command in this folder needs it, for a run of the database. Needs no quotes in a shell."""
    otherwise_read = name.startswith("-") or Path(name, RUN_FILE).is_file()
    return f"{DATABASE_RUN}{name}" if otherwise_read else name


def print_json(value: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps({"schema": 1} | value, ensure_ascii=False, indent=2))


def tell_versions(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    import importlib.metadata
    import platform

    versions = [f"sam3-queue {importlib.metadata.version('sam3-queue')}", f"Python {platform.python_version()}"]
    for package in ("torch", "transformers", "celery"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    click.echo(", ".join(versions))
    context.exit()


def command(name: str) -> Callable[[Callable[..., int | None]], Sam3Command]:
    """Make a function a sam3 command."""
    settings = {"help_option_names": ["-h", "--help"], "show_default": True}
    return click.command(name, cls=Sam3Command, context_settings=settings)


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """`1 image`, `12,000 images`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
