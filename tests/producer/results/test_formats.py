"""What the help of sam3-export says of formats is what each format declares, as help must not import them."""

import re

import click
import pytest

from producer.cli.export import main
from producer.results.format_names import MODULES
from producer.results.formats import format_named, own_flags

HELP = {option.name: option.help for option in main.params if isinstance(option, click.Option)}


@pytest.mark.parametrize("flag", own_flags())
def test_the_help_of_a_flag_names_the_formats_that_take_it(flag: str) -> None:
    told = re.findall(r"\b[Ff]or ([a-z-]+(?: and [a-z-]+)*):", HELP[flag] or "")
    assert {name for names in told for name in names.split(" and ")} == {
        name for name in MODULES if flag in format_named(name).takes
    }


def test_the_help_of_the_output_names_the_formats_that_fill_a_folder() -> None:
    [told] = re.findall(r"for ([a-z-]+(?:, [a-z-]+)*) a folder", HELP["output"] or "")
    assert told.split(", ") == [name for name in MODULES if format_named(name).folder]
