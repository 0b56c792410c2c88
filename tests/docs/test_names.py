"""What our pages name is there: files, modules, commands, flags, variables, settings, links. The README stays short."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.states import ChunkState, ImageState, RunState
from producer.cli.main import MODULES
from tests.docs.names import FOLDERS, PACKAGES, flags, is_defined, programs, variables
from tests.docs.pages import PAGES, ROOT, anchors, blocks, code_spans, links, name, prose
from workers.errors import CURABLE, ErrorClass
from workers.settings import Settings

LONGEST_README = 900  # words
CODE = ("db", "producer", "workers", "sam3_queue")
# What stands for something else in the messages that pages show.
EXAMPLES = r"\bgpu0(?:@host)?\b|\bimages\b|\bother\b|\b0:20\b|\b3 of 3\b|signal 9|\bloads\b|\.\.\."
SET_BY_US = {"identity", "node", "device", "cores"}  # settings that the launcher hands to its nodes

every_page = pytest.mark.parametrize("page", PAGES, ids=name)


def spans(page: Path) -> list[str]:
    """What the page says in code: spans, and the lines of its shell blocks."""
    lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    return [*code_spans(page), *lines]


def words(span: str) -> list[str]:
    try:
        return shlex.split(span, comments=True)
    except ValueError:  # it is no command
        return span.split()


@every_page
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link}; headings: {sorted(anchors(target))}"


@every_page
def test_every_file_that_is_named_is_there(page: Path) -> None:
    for span in code_spans(page):
        for word in words(span):
            if word.partition("/")[0] in FOLDERS and "/" in word:
                assert (ROOT / word.partition("::")[0]).exists(), f"{name(page)}: {word}"


@every_page
def test_every_module_and_name_of_ours_is_defined(page: Path) -> None:
    for span in code_spans(page):
        for dotted in re.findall(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+", span):
            assert is_defined(dotted), f"{name(page)}: {dotted}"


@every_page
def test_every_command_is_there_and_has_the_flags_that_it_is_shown_with(page: Path) -> None:
    for program, given, span in commands(page):
        assert program in flags(), f"{name(page)}: {program} in {span!r}"
        for flag in given:
            assert flag in flags()[program], f"{name(page)}: {program} has no {flag}, in {span!r}"


@every_page
def test_every_flag_that_stands_alone_is_one_of_some_command(page: Path) -> None:
    known = set().union(*flags().values())
    for span in code_spans(page):
        if span.startswith("-") and not span.startswith("- "):
            flag = span.split()[0]
            assert flag in known, f"{name(page)}: {flag}"


@every_page
def test_every_variable_of_ours_is_known(page: Path) -> None:
    for variable in re.findall(r"\bSAM3_[A-Z_]*[A-Z]\b", page.read_text()):
        assert variable in variables(), f"{name(page)}: {variable}"


@every_page
def test_every_target_of_make_is_in_the_makefile(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for span in spans(page):
        if found := re.match(r"make ([a-z-]+)\b", span):
            assert found[1] in targets, f"{name(page)}: {span}"


def commands(page: Path) -> Iterator[tuple[str, list[str], str]]:
    """Each command of ours on the page, with its flags and what it stands in."""
    for span in spans(page):
        for part in re.split(r"&&|;|\|| > ", span):
            given = words(part)
            while given and re.fullmatch(r"[A-Z0-9_]+=.*", given[0]):  # variables before the command
                given = given[1:]
            if not given or not re.fullmatch(r"sam3(-[a-z]+)?", given[0]):
                continue
            program = given[0]
            if program == "sam3" and len(given) > 1 and not given[1].startswith("-"):
                program = f"sam3-{given[1]}"
            yield program, [word.partition("=")[0] for word in given if re.match(r"--?[a-z]", word)], span


def test_the_readme_has_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= LONGEST_README


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        local = [page.parent / link.partition("#")[0] for link in links(page) if not link.startswith(("http", "#"))]
        waiting += {path.resolve() for path in local if path.suffix == ".md"} - reached
    assert set(PAGES) <= reached


def test_every_command_and_subcommand_is_a_program_that_pages_may_name() -> None:
    assert programs() - {"sam3"} <= flags().keys()
    assert {f"sam3-{command}" for command in MODULES} == flags().keys() - {"sam3"}


def test_the_table_of_settings_has_each_setting_and_its_default() -> None:
    rows = re.findall(r"^\| `SAM3_(\w+)` \| (.*?) \|", (ROOT / "docs/operations.md").read_text(), flags=re.MULTILINE)
    shown = {name.lower(): default.strip("`") for name, default in rows}
    fields = {name: field for name, field in Settings.model_fields.items() if name not in SET_BY_US}
    assert shown.keys() == fields.keys()
    for setting, field in fields.items():
        if isinstance(field.default, bool | int | float | str):
            assert shown[setting] == str(field.default).lower(), setting


def test_the_table_of_error_classes_has_each_class_and_says_whether_a_retry_may_help() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| .* \| (yes|no)\b.*\|$", operations(), flags=re.MULTILINE)
    shown = {word: helps == "yes" for words, helps in rows for word in re.findall(r"`(\w+)`", words)}
    assert shown == {str(kind): kind in CURABLE for kind in ErrorClass}


def test_every_message_in_the_table_of_symptoms_is_one_that_our_code_has() -> None:
    section = operations().partition("## A symptom")[2].partition("\n## ")[0]
    messages = [span for row in section.splitlines() for span in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    source = "\n".join(path.read_text() for package in CODE for path in (ROOT / package).rglob("*.py"))
    for message in messages:
        assert any(part in source for part in fixed_parts(message)), f"nothing says {message}"
    assert len(messages) > 20


def fixed_parts(message: str) -> Iterator[str]:
    """Three words in a row, or fewer where an example stands between: our code may put the others together."""
    for part in re.split(EXAMPLES, message):
        given = part.split()
        for start in range(max(1, len(given) - 2)) if given else ():
            yield " ".join(given[start : start + 3])


def operations() -> str:
    return prose(ROOT / "docs/operations.md")


@pytest.mark.parametrize("states", [ImageState, ChunkState, RunState])
def test_the_tables_of_states_have_each_state_once(states: type[ImageState | ChunkState | RunState]) -> None:
    heading = {"ImageState": "an image", "ChunkState": "a chunk", "RunState": "a run"}[states.__name__]
    section = prose(ROOT / "docs/architecture.md").partition(f"## The states of {heading}\n")[2].partition("\n## ")[0]
    first_table = section.strip().partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", first_table, flags=re.MULTILINE) == [state.value for state in states]


def test_the_glossary_explains_each_word_once() -> None:
    rows = re.findall(r"^\| ([a-z][^|]*) \| [^|]+ \| `", prose(ROOT / "docs/glossary.md"), flags=re.MULTILINE)
    assert len(rows) > 60
    assert sorted(rows) == sorted(set(rows))


@pytest.mark.parametrize("wrong", ["db.nothing", "db.models.Nothing", "db.models.Chunk.nothing", "nothing.models"])
def test_a_name_that_nothing_defines_is_noticed(wrong: str) -> None:
    assert not is_defined(wrong)
    assert is_defined("db.models.Chunk.fence")
    assert is_defined("workers.inference")
