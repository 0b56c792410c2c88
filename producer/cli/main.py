"""`sam3`: each command as a subcommand, completion for shells, and a template of all settings. Does no work itself."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from workers.cli import base
from workers.cli.base import Sam3Command

PROGRAM = "sam3"
MODULES = {  # each is a program of its own as well, such as sam3-run
    "run": "producer.cli.run:main",
    "enqueue": "producer.cli.enqueue:main",
    "status": "producer.cli.status:main",
    "retry": "producer.cli.retry:main",
    "pause": "producer.cli.pause:main",
    "resume": "producer.cli.resume:main",
    "set": "producer.cli.set:main",
    "cancel": "producer.cli.cancel:main",
    "delete": "producer.cli.delete:main",
    "export": "producer.cli.export:main",
    "db": "producer.cli.database:main",
    "worker": "workers.cli.commands:worker",
    "broker": "workers.cli.commands:broker",
    "flower": "workers.cli.commands:flower",
    "config": "producer.cli.main:config",
    "completion": "producer.cli.main:completion",
}
ALONE = ("config", "completion")  # subcommands that are no programs of their own


class Sam3(click.Group):
    """Imports a subcommand when it is called, and runs it like the program of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, name: str) -> Sam3Command | None:
        if name not in MODULES:
            return None
        module, _, attribute = MODULES[name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, Sam3Command)
        return command

    def main(  # type: ignore[override]  # click lets it return, as programs do not
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        given = list(sys.argv[1:] if args is None else args)
        prog = prog_name or Path(sys.argv[0]).name
        completes = f"_{prog}_COMPLETE".replace("-", "_").replace(".", "_").upper() in os.environ
        command = None if completes or not given else self.get_command(click.Context(self), given[0])
        if command is not None:
            sys.argv = [f"{PROGRAM}-{given[0]}", *given[1:]]  # hints repeat the command from sys.argv
            command.main(given[1:], f"{prog} {given[0]}", **extra)
        try:
            super().main(given, prog, standalone_mode=False, max_content_width=110)
        except click.ClickException as error:  # no such command, or no such flag
            base.say(f"{prog}: error: {error.format_message().rstrip('.')}; see {prog} --help")
            sys.exit(2)
        sys.exit(0)


@click.group(PROGRAM, cls=Sam3, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=base.tell_versions, help="Show versions."
)
@click.pass_context
def main(context: click.Context) -> None:
    """Text-prompted SAM3 masks for thousands to hundreds of millions of images.

    Begin with: sam3 run FOLDER --prompt person --model tiny -o out
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@base.command("sam3 config")
def config() -> int:
    """Print every setting with its default: a commented YAML file for --config, and all SAM3_ variables."""
    from producer.cli.template import template

    context = click.Context(main)
    commands = (main.get_command(context, name) for name in MODULES)
    click.echo(template(command for command in commands if command is not None))
    return 0


@base.command("sam3 completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes a SHELL complete commands, flags and names of runs.

    \b
    bash: add   eval "$(sam3 completion bash)"   to ~/.bashrc
    zsh:  add   eval "$(sam3 completion zsh)"    to ~/.zshrc, after compinit
    fish: add   sam3 completion fish | source    to ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    for program in (PROGRAM, *(f"{PROGRAM}-{name}" for name in MODULES if name not in ALONE)):
        variable = f"_{program}_COMPLETE".replace("-", "_").upper()
        click.echo(kind(main, {}, program, variable).source())
    return 0


if __name__ == "__main__":
    main()
