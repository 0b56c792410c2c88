"""The kinds of values that flags take, for click. Knows no flag, and does no work itself.

It must be quick to import, as --help needs it.
"""

import math
from pathlib import Path
from typing import Any

import click

NEVER = "never"  # the value of --stop-after that takes all budgets away


class Phrase(click.ParamType[str]):
    """A text that may hold blanks. In a variable several texts are joined by |, as in a prompt column."""

    name = "text"
    envvar_list_splitter = "|"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not isinstance(value, str):  # YAML reads yes without quotes as true, and 7 as a number
            self.fail(f"{value!r} is no text; put it in quotes", param, ctx)
        return value


class Share(click.FloatRange):
    """A number from 0 to 1. Click's own range would also accept NaN."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range 0<=x<=1", param, ctx)
        return float(number)


class PartOfFleet(Share):
    """A number above 0 and at most 1."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if number == 0:
            self.fail("0 would stop the run: that is sam3-pause", param, ctx)
        return number


class Rule(Phrase):
    """A budget of --stop-after, in words, or never."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from db.values import StopRule

        text = super().convert(value, param, ctx)
        try:
            return NEVER if text == NEVER else str(StopRule.read(text))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _refuse_empty(kind: click.ParamType[Any], value: Any, param: click.Parameter | None) -> None:
    """Fail for an empty place: a shell makes one of a variable that is not set, and it would be the working folder."""
    if str(value) == "":
        kind.fail("is empty; if the working folder is meant, give ./", param)


class HereFolder(click.Path):
    """A folder of this machine. `instead` says what else can be done for a bucket."""

    def __init__(self, instead: str) -> None:
        super().__init__(path_type=Path, file_okay=False)
        self._instead = instead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from workers.places import urls

        _refuse_empty(self, value, param)
        if urls.is_url(str(value)):
            self.fail(f"a URL is no place for that; {self._instead}", param, ctx)
        return super().convert(value, param, ctx)


OUTPUT_FOLDER = HereFolder("give a folder, then sam3-export RUN -o s3://bucket/key")
MASK_FOLDER = HereFolder("give the folder of this machine that png masks were exported to")
STATE_FOLDER = HereFolder("give a folder of this machine")


class SourcePlace(click.ParamType[str]):
    """A file, a folder, a pattern, or the URL of a part of a bucket or of an object, as a text."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from producer.sources import place

        _refuse_empty(self, value, param)
        if (wrong := place.fault(str(value))) is not None:
            self.fail(wrong, param, ctx)
        return str(click.Path().convert(value, param, ctx))


class ImageRoot(click.ParamType[str]):
    """A folder, or a URL of a part of a bucket, as a text."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from workers.places import urls

        _refuse_empty(self, value, param)
        folder = str(value)
        if (wrong := urls.fault(f"{folder.rstrip('/')}/any" if folder[-3:] != "://" else folder)) is not None:
            self.fail(wrong, param, ctx)
        if urls.is_url(folder):
            return urls.normal(folder).rstrip("/")
        return str(click.Path(file_okay=False).convert(value, param, ctx))


class ExportOutput(click.ParamType[Path | str]):
    """A file or a folder, or the URL of an object as a text."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        from workers.places import urls

        _refuse_empty(self, value, param)
        output = str(value)
        if not urls.is_url(output):
            if (wrong := urls.fault(output)) is not None:
                self.fail(wrong, param, ctx)
            return Path(value)
        output = output.removesuffix("/")  # as that of a folder's name
        if (wrong := urls.fault(output)) is not None:
            self.fail(wrong, param, ctx)
        if urls.is_web(output):
            self.fail("nothing is written to a web server; give a file, or s3://bucket/key", param, ctx)
        return urls.normal(output)
