"""Names of runs for a shell that completes what is typed. Silent whatever is wrong, and never makes a database."""

import click
from click.shell_completion import CompletionItem


def complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs of the database whose names begin so; folders where there is none, since a sam3-run's serves too."""
    names = [name for name in _run_names() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="dir")]


def _run_names() -> list[str]:
    try:
        from db.session import connect, read
        from db.views import status
        from workers.settings import load_settings

        return read(connect(load_settings().database_url, connections=1, create=False), status.run_names)
    except Exception:  # an error here would be printed into what somebody is typing
        return []
