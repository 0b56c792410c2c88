"""Completes names of runs in the shell. Says nothing if something is wrong, and never makes a database."""

import click
from click.shell_completion import CompletionItem


def complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs of the database whose names begin with the text; if there are none, folders, as one of sam3-run is valid."""
    names = [name for name in _run_names() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="dir")]


def _run_names() -> list[str]:
    try:
        from db.session import connect, read
        from db.views import run_views
        from workers.settings import load_settings

        return read(connect(load_settings().database_url, connections=1, create=False), run_views.run_names)
    except Exception:  # the message would appear in the middle of the user's command line
        return []
