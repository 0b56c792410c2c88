"""What all commands share: exit codes, errors in one line, settings, output. Knows no single command.

--help has to be quick. So modules that open a database or read a file are imported inside the functions that use them,
here and in each module that declares a command.
"""

import errno
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from db import private
from workers.errors import NoSuchRun, Sam3Error, Unreachable, UsageError, first_line, printable
from workers.machine.variables import PREFIX, linked_services, own_variables

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

    from workers.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

INTERRUPTED = 130
RUN_FILE = "run.yaml"  # a folder with this file is the output folder of a sam3-run
DATABASE_RUN = "run:"  # prefix of the name of a run of the database, for names that could also mean a folder
_CONFIG = "sam3.config"  # key of the config file's values in click's `Context.meta`


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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)  # click takes words out of `args`
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption:
            for word in given:
                if word.startswith("-") and os.path.lexists(word):
                    raise click.UsageError(
                        f"'{word}' is read as a flag; write {shlex.quote(f'./{word}')}", ctx
                    ) from None
            raise

    def main(  # type: ignore[override]  # click lets it return, as programs do not
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run as a program. The wrapped function's return value is the exit code; None means 0."""
        given = list(sys.argv[1:] if args is None else args)
        prog = prog_name or Path(sys.argv[0]).name
        if isinstance(sys.stdout, io.TextIOWrapper):  # letters that the terminal does not have become \xe9 and the like
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
            code = INTERRUPTED if _was_interrupted(error) else _lost_output(prog) or _told(error, prog, debug)
        sys.exit(_lost_output(prog) or (code if isinstance(code, int) else 0))


def _lost_output(prog: str) -> int | None:
    """Write what was printed, now; return the exit code if that cannot be, else None.

    What could not be written is not tried again when Python ends, since that would print a traceback.
    """
    if sys.stdout is None:  # we were started without standard output
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # who read it has ended, as `head` does
            return 1
        say(f"{prog}: error: cannot write standard output: {error.strerror}; print to another place or make room there")
        return UsageError.exit_code
    return None


def _was_interrupted(error: Exception) -> bool:
    """Whether this error is what others made of a `KeyboardInterrupt`.

    Python 3.11 raises a RuntimeError for one that comes while it makes a class, and pydantic a SchemaError whose text
    alone tells what happened.
    """
    return isinstance(error.__cause__, KeyboardInterrupt) or KeyboardInterrupt.__name__ in str(error)


def _told(error: Exception, prog: str, debug: bool) -> int:
    """Print the error in one line, with `debug` its traceback first; return the exit code."""
    if debug:
        import traceback

        traceback.print_exception(error)
    code, line = _explain(error)
    say(f"{prog}: error: {line}")
    return code


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line to print for an error."""
    own = error if isinstance(error, Sam3Error) else error_of_database(error)
    if own is not None:
        return own.exit_code, str(own)
    match error:
        case click.UsageError():
            hint = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
            return UsageError.exit_code, error.format_message().replace("\n", " ").rstrip(".") + hint
        case click.ClickException():
            return UsageError.exit_code, error.format_message()
    return 1, f"unexpected {type(error).__name__}: {first_line(error)}; run it again with --debug for the traceback"


def error_of_database(error: Exception) -> Sam3Error | None:
    """The error of ours, with one line for the user, for an error of the database; None for other errors."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    from db.refusals import DatabaseUnusable, advice
    from db.session import OutcomeUnknown
    from db.views.run_views import RunGone

    match error:
        case RunGone():
            return NoSuchRun("the run was deleted meanwhile; sam3-status lists those that there are")
        case DatabaseUnusable():
            return UsageError(str(error))
        case OutcomeUnknown():
            return Unreachable(f"{error}; the same command again goes on from there")
        case DBAPIError() if isinstance(error, OperationalError) or advice(error):
            return Unreachable(_database_fault(error))
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
    """Warn of `SAM3_*` variables that no command knows. Other commands are imported only if this one has an unknown."""
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
    from workers.places import web
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
    web.allow(found.image_hosts, found.image_networks)
    return found


def setting_origin(name: str) -> str | None:
    """What set a setting of the running command: the name of a variable, or the config file; None for the default."""
    variable = PREFIX + name.upper()
    if os.environ.get(variable):
        return variable
    context = click.get_current_context(silent=True)
    return f"{name} in the --config file" if context and name in context.meta.get(_CONFIG, {}) else None


def say(line: str) -> None:
    """Print one line for the user to standard error. Data go to standard output instead.

    If that is a file on a full disk the line is lost: the work goes on.
    """
    try:
        click.echo(printable(line), err=True)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise


def spelled_run(name: str) -> str:
    """The argument RUN with which a command in this working folder finds a run of the database. It needs no quotes."""
    is_ambiguous = name.startswith("-") or Path(name, RUN_FILE).is_file()
    return f"{DATABASE_RUN}{name}" if is_ambiguous else name


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object, with the version of its schema, to standard output."""
    import json

    click.echo(json.dumps({"schema": 1} | value, ensure_ascii=False, indent=2))


def tell_versions(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Callback of --version: print the versions of our package and its main libraries, and end."""
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


def flag_group(*flags: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Make one decorator of these flags, which adds them in this order."""

    def add(function: Function) -> Function:
        for flag in reversed(flags):
            function = flag(function)
        return function

    return add


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: `1 image`, `12,000 images`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
