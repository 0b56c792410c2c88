"""`sam3-enqueue` as it is typed: what it prints, how it ends, and what the broker then holds."""

from pathlib import Path

import pytest

from producer.cli.enqueue import main as enqueue
from producer.cli.retry import main as retry
from producer.cli.status import main as status
from producer.runs.operate import cancel
from tests.db import scenario
from tests.producer.cli.conftest import Shell
from tests.workers import runs
from workers.broker.connection import Doorbells
from workers.settings import load_settings


def write_csv(shell: Shell, *rows: str, header: str = "path", name: str = "faces.csv") -> Path:
    path = shell.home / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def photographs(count: int) -> list[str]:
    return [f"photos/{number:03}.jpg" for number in range(count)]


@pytest.mark.usefixtures("broker")
def test_a_new_run_is_recorded_and_rung_and_the_json_begins_as_promised(shell: Shell) -> None:
    write_csv(shell, *photographs(20), "photos/000.jpg", "")

    first = shell(enqueue, "--csv", "faces.csv", "--prompt", "person", "--chunk-size", "8", "--json")

    assert list(first.json.items()) == [
        ("schema", 1),
        ("run", "faces"),
        ("images", 21),
        ("chunks", 3),
        ("queued", 2),
        ("already_done", 0),
        ("duplicates", 1),
        ("rejected", 0),
        ("cancelled", 0),
        ("gone", 0),
        ("redone", 0),
        ("changed", 0),
        ("missing", 0),
        ("adding", 0),
    ]
    assert Doorbells(runs.app(shell.sessions, load_settings().broker_url)).chunks() == {1, 2}


@pytest.mark.usefixtures("broker")
def test_the_same_command_again_adds_nothing_and_ends_well(shell: Shell) -> None:
    write_csv(shell, *photographs(3))
    given = ("--csv", "faces.csv", "--prompt", "person")
    first = shell(enqueue, *given)
    assert first.out == "run faces: 3 images in 1 chunk, 1 queued now\n"
    assert first.err == "Next: sam3-status faces --watch\n"

    assert shell(enqueue, *given).out == "run faces: 3 images in 1 chunk, 0 new\n"

    scenario.commit_all(shell.sessions, scenario.claim(shell.sessions, 1, 1), 0.9)
    last = shell(enqueue, *given)
    assert last.out == "run faces: 3 images in 1 chunk, 3 already done, 0 new\n"
    assert last.err == "Next: sam3-export faces --format csv -o faces-results.csv\n"


@pytest.mark.usefixtures("broker")
def test_where_all_rows_are_rejected_no_export_is_advised(shell: Shell) -> None:
    write_csv(shell, "http://example.org/a.jpg")
    told = shell(enqueue, "--csv", "faces.csv", "--prompt", "person", code=1)
    assert told.err == "Rejected rows: the same command with --dry-run says why\n"


@pytest.mark.usefixtures("broker")
def test_a_cancelled_run_is_told_and_the_hint_takes_it_up_again(shell: Shell) -> None:
    write_csv(shell, *photographs(3))
    given = ("--csv", "faces.csv", "--prompt", "person")
    shell(enqueue, *given)
    cancel(shell.sessions, 1)

    again = shell(enqueue, *given)

    assert again.out == "run faces: 3 images in 1 chunk, 3 cancelled, 0 new\n"
    assert again.err == "Next: sam3-retry faces\n"
    assert shell(retry, "faces").out == "run faces: 3 images to try again\n"


@pytest.mark.usefixtures("broker")
def test_rejected_rows_end_with_1_once_and_are_named_by_a_dry_run(shell: Shell) -> None:
    write_csv(shell, "a.jpg,1", "b.jpg", "http://x/c.jpg,3", header="path,id")
    given = ("--csv", "faces.csv", "--prompt", "person")

    first = shell(enqueue, *given, code=1)
    assert first.out == "run faces: 3 images in 1 chunk, 1 queued now, 2 rejected\n"
    assert first.err.splitlines()[0] == "Rejected rows: the same command with --dry-run says why"

    assert shell(enqueue, *given).out == "run faces: 3 images in 1 chunk, 2 rejected, 0 new\n"
    named = shell(enqueue, *given, "--dry-run", code=1).err
    assert "  rejected: faces.csv:3: 1 column, the header has 2" in named
    assert "  rejected: faces.csv:4: 'http://' is a URL" in named


def test_a_dry_run_tells_each_kind_of_bad_row_once_with_its_first_row_and_how_many_there_are(shell: Shell) -> None:
    paths = ["http://x/1.jpg", "http://x/2.jpg", "file:///3.jpg", "", "ftp://x/4.jpg", "a\tb.jpg", "s3://b"]
    write_csv(shell, *(f"{path},1" for path in paths), "a.jpg", "b.jpg,2,3", "s3://c,1", "good.jpg,1", header="path,id")

    told = shell(enqueue, "--csv", "faces.csv", "--prompt", "person", "--dry-run", code=1)

    assert told.out.startswith("would record run faces: 11 images in 1 chunk, 10 rejected;")
    assert told.err.splitlines()[:6] == [
        "  rejected: faces.csv:2: 'http://' is a URL that is not read; "
        "give the path of a local copy, or s3://, gs://, az:// or https:// (3 such rows)",
        "  rejected: faces.csv:4: 'file://' is a URL that is not read; write the path alone, such as /data/a.jpg",
        "  rejected: faces.csv:5: empty path; give the image's path, or remove the row",
        r"  rejected: faces.csv:7: the path holds \t, which is no text; rename the file or its folder",
        "  rejected: faces.csv:8: the URL names no object; write it like s3://bucket/folder/a.jpg (2 such rows)",
        "  ... and 2 rows for other reasons",
    ]


@pytest.mark.usefixtures("broker")
def test_a_run_is_continued_with_more_rows_and_not_with_other_settings(shell: Shell) -> None:
    write_csv(shell, *photographs(5))
    given = ("--csv", "faces.csv", "--prompt", "person")

    assert shell(enqueue, *given, "--limit", 2).out.startswith("run faces: 2 images")
    assert shell(enqueue, *given).out == "run faces: 5 images in 2 chunks, 1 queued now, 3 new\n"
    scenario.commit_all(shell.sessions, scenario.claim(shell.sessions, 1, 1), 0.6)
    refused = shell(enqueue, *given, "--threshold", "0.7", code=2)

    assert refused.error == (
        "sam3: error: run faces has results with other settings: threshold 0.5 there, 0.7 here. No GPU is needed for "
        "that: sam3-export faces --format csv --threshold 0.7 -o faces-0.7.csv. Give this one another name with "
        "--run, or the same settings; or sam3-delete faces first"
    )


@pytest.mark.usefixtures("broker")
def test_rows_that_left_the_csv_are_kept_and_counted(shell: Shell) -> None:
    write_csv(shell, *photographs(5))
    given = ("--csv", "faces.csv", "--prompt", "person")
    shell(enqueue, *given)
    write_csv(shell, "new.jpg", *photographs(3))

    out = shell(enqueue, *given).out

    assert out == "run faces: 4 images in 2 chunks, 1 queued now, 1 new, 2 no longer in the CSV (left out of exports)\n"
    images = shell(status, "faces", "--json").json["images"]
    assert (images["total"], images["pending"], images["gone"]) == (6, 4, 2)


def test_a_dry_run_needs_neither_broker_nor_database(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_DATABASE_URL", "postgresql://user:secret@localhost:1/nowhere")
    write_csv(shell, *photographs(20), "")

    told = shell(enqueue, "--csv", "faces.csv", "--prompt", " person ", "--prompt", "a  dog", "--dry-run")
    assert told.out.splitlines() == [
        'would record run faces: 20 images in 3 chunks; prompts: ["person", "a dog"]',
        "  image column: path",
        *(f"  image: {shell.home}/photos/{number:03}.jpg" for number in range(3)),
        "not checked: the broker; the model, which the workers load",
    ]

    facts = shell(enqueue, "--csv", "faces.csv", "--prompt", "person", "--dry-run", "--json", "--limit", 9).json
    assert list(facts)[:8] == [
        *("schema", "run", "images", "chunks", "queued", "already_done", "duplicates", "rejected")
    ]
    assert (facts["images"], facts["chunks"], facts["dry_run"]) == (9, 2, True)


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(
    ("given", "code"),
    [
        (("--exit-zero",), 0),
        (("--max-failures", "1"), 0),
        (("--max-failures", "33.4%"), 0),
        (("--max-failures", "33%"), 1),
    ],
)
def test_so_many_rejected_rows_as_are_put_up_with_do_not_end_with_1(
    shell: Shell, given: tuple[str, ...], code: int
) -> None:
    write_csv(shell, "a.jpg", "b.jpg", "http://x/c.jpg")
    command = ("--csv", "faces.csv", "--prompt", "person", *given)

    assert "1 rejected" in shell(enqueue, *command, "--dry-run", code=code).out
    assert "1 rejected" in shell(enqueue, *command, code=code).out


def test_a_model_folder_that_only_the_workers_have_is_a_warning(shell: Shell) -> None:
    write_csv(shell, *photographs(3))
    command = ("--csv", "faces.csv", "--prompt", "person", "--dry-run", "--model")

    assert shell(enqueue, *command, "/no/such/folder").err.splitlines()[0] == (
        "warning: model /no/such/folder: no such folder on this machine; the workers need it under this path"
    )
    assert shell(enqueue, *command, shell.home).err == ""
    assert shell(enqueue, *command, "facebook/sam3").err == ""


NO_CSV = {
    "header only": (b"path\n", " has no data rows: write one image path a line below the header"),
    "duplicate header": (
        b"path,path\na.jpg,b.jpg\n",
        ": column 'path' appears 2 times in the header; rename all but one",
    ),
    "quote open to the end": (
        b'path\na.jpg\n"b.jpg\nc.jpg\n',
        ':3: quote opened and never closed; close it, or write a quote inside a cell as ""',
    ),
    "long cell far down": (
        b"path\n" + 5000 * b"a.jpg\n" + 200_000 * b"y" + b"\n",
        ":5002: cell longer than 131072 characters; shorten it or remove its column",
    ),
    "gzip": (b"\x1f\x8b\x08\0", ": its gzip data are damaged or cut off; copy or make it again"),
}


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(("content", "fault"), NO_CSV.values(), ids=NO_CSV)
def test_a_file_that_is_no_csv_ends_with_2_and_nothing_is_recorded(shell: Shell, content: bytes, fault: str) -> None:
    (shell.home / "faces.csv").write_bytes(content)

    error = shell(enqueue, "--csv", "faces.csv", "--prompt", "person", code=2).error

    assert error == f"sam3: error: faces.csv{fault}"
    assert shell(status, "--json").json == {"schema": 1, "runs": []}


def test_a_prompt_that_would_command_the_terminal_is_refused(shell: Shell) -> None:
    write_csv(shell, "a.jpg,cat", "b.jpg,c\x1b[2J", header="path,what")
    given = ("--csv", "faces.csv", "--dry-run")

    assert shell(enqueue, *given, "--prompt", "c\x1b[2J", code=2).error == (
        "sam3: error: --prompt 'c\\x1b[2J': prompt with a character that is no text; write it in UTF-8"
    )
    assert shell(enqueue, *given, "--prompt-column", "what", code=1).err == (
        "  rejected: faces.csv:3: prompt with a character that is no text; write it in UTF-8\n"
    )


def test_without_a_broker_it_ends_with_3_before_anything_is_recorded(shell: Shell) -> None:
    write_csv(shell, *photographs(3))

    error = shell(enqueue, "--csv", "faces.csv", "--prompt", "person", code=3).error

    assert error.startswith("sam3: error: cannot reach the broker redis://localhost:1/0: ")
    assert error.endswith("; start one with sam3-broker, or set SAM3_BROKER_URL")
    assert shell(status, "--json").json == {"schema": 1, "runs": []}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ((), "nothing to look for: give --prompt TEXT, --prompt-column C, --box-column C or --everything"),
        (("--prompt", " "), "--prompt is empty; give a short noun phrase such as --prompt person"),
        (("--prompt", "w " * 31), "w ...': prompt of 31 words; shorten it to 30 words"),
        (("--prompt", "w" * 9000), "www...': prompt of 9,000 bytes; shorten it to 1,000 bytes"),
        (("--prompt", "caf\udce9"), "--prompt 'caf\\xe9': prompt with a character that is no text; write it in UTF-8"),
        (("--prompt", "a", "--chunk-size", "0"), "--chunk-size 0: give auto or a number from 1 to 1000"),
        (("--prompt", "a", "--chunk-size", "²"), "--chunk-size ²: give auto or a number from 1 to 1000"),
        (("--prompt", "a", "--threshold", "nan"), "'--threshold': nan is not in the range 0<=x<=1"),
        (("--prompt", "a", "--threshold", "high"), "'--threshold': 'high' is not a valid number"),
        (("--prompt", "a", "--run", "a b"), "--run 'a b': use letters, digits, dots, dashes and underscores, such as"),
        (("--prompt", "a", "--run", "."), "--run: give the run a name of 1 to 100 letters and digits"),
        (("--prompt", "a", "--prompt-column", "p"), "faces.csv: no column 'p'; columns found: 'path'"),
        (("--prompt", "a", "--image-column", "p"), "faces.csv: no column 'p'; columns found: 'path'"),
        (("--prompt", "a", "--csv", "none.csv"), "none.csv: not found; check the path"),
        (("--prompt", "a", "--limit", "0"), "'--limit': 0 is not in the range x>=1"),
    ],
)
def test_a_wrong_flag_ends_with_2_and_one_line_that_names_it(shell: Shell, given: tuple[str, ...], fault: str) -> None:
    write_csv(shell, *photographs(3))

    assert fault in shell(enqueue, "--csv", "faces.csv", *given, "--dry-run", code=2).error


def test_flags_come_from_the_command_line_then_the_environment_then_the_config_file(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(shell, *photographs(64))
    (shell.home / "config.yaml").write_text("csv: faces.csv\nprompt: person\nchunk-size: 16\nlimit: 63\nrun: seven\n")
    monkeypatch.setenv("SAM3_CHUNK_SIZE", "32")
    given = ("--config", "config.yaml", "--dry-run", "--json")

    assert shell(enqueue, *given).json["chunks"] == 2
    assert shell(enqueue, *given, "--chunk-size", "64").json["chunks"] == 1
    monkeypatch.delenv("SAM3_CHUNK_SIZE")
    facts = shell(enqueue, *given).json
    assert (facts["run"], facts["images"], facts["chunks"]) == ("seven", 63, 4)


@pytest.mark.usefixtures("broker")
def test_a_root_without_the_images_is_told_before_anything_is_recorded(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAM3_NO_CHECK")
    write_csv(shell, *photographs(300))
    given = ("--csv", "faces.csv", "--prompt", "person")
    for more in ((), ("--dry-run",)):
        assert shell(enqueue, *given, *more, code=2).error.startswith(
            f"sam3: error: {shell.home}/faces.csv: none of 200 images looked at is there: the first would be "
            f"{shell.home}/photos/000.jpg (relative paths start at the CSV's folder); "
        )
    assert shell(status, "--json").json == {"schema": 1, "runs": []}
    assert shell(enqueue, *given, "--no-check", "--limit", "2").out.startswith("run faces: 2 images")

    # Rows that are new to a run are looked at too; a run that is resumed is not.
    assert shell(enqueue, *given, "--limit", "2").out == "run faces: 2 images in 1 chunk, 0 new\n"
    assert "images looked at is there" in shell(enqueue, *given, code=2).error
    assert shell(status, "--json").json["runs"][0]["images"]["total"] == 2

    (shell.home / "photos").mkdir()
    (shell.home / "photos" / "001.jpg").touch()
    told = shell(enqueue, *given)
    assert "are not there, such as " in told.err
    assert told.out.startswith("run faces: 300 images")
    (shell.home / "photos" / "001.jpg").unlink()
    assert shell(enqueue, *given).out.endswith("0 new\n")


def test_a_prompt_that_yaml_does_not_read_as_text_is_asked_to_be_quoted(shell: Shell) -> None:
    write_csv(shell, *photographs(3))
    (shell.home / "config.yaml").write_text("csv: faces.csv\nprompt: [person, no]\n")

    error = shell(enqueue, "--config", "config.yaml", "--dry-run", code=2).error

    assert "Invalid value for '--prompt': False is no text; put it in quotes" in error


@pytest.mark.usefixtures("broker")
def test_a_csv_and_prompts_of_any_script_are_recorded_and_told_in_their_letters(shell: Shell) -> None:
    folder = shell.home / "Gesichter"
    folder.mkdir()
    (folder / "写真.csv").write_text("path\n猫.jpg\n")
    given = ("--csv", "Gesichter/写真.csv", "--prompt", "красная машина")

    assert shell(enqueue, *given, "--dry-run").out.splitlines()[0] == (
        'would record run Xie-Zhen: 1 image in 1 chunk; prompts: ["красная машина"]'
    )
    assert shell(enqueue, *given, "--json").json["run"] == "Xie-Zhen"
    refused = shell(enqueue, *given, "--run", "写真", code=2).error
    assert refused.endswith("--run '写真': use letters, digits, dots, dashes and underscores, such as Xie-Zhen")


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [
        ("person, car", "hint: --prompt 'person, car' is one prompt; 2 would be --prompt person --prompt car"),
        ("red car|cat|", "hint: --prompt 'red car|cat|' is one prompt; 2 would be --prompt 'red car' --prompt cat"),
        ("猫、犬", "hint: --prompt '猫、犬' is one prompt; 2 would be --prompt '猫' --prompt '犬'"),
        ("person,", ""),
        ("red car", ""),
    ],
)
def test_a_list_in_one_prompt_is_taken_as_it_is_with_a_hint(shell: Shell, prompt: str, hint: str) -> None:
    write_csv(shell, "a.jpg", header="path")
    answer = shell(enqueue, "--csv", "faces.csv", "--dry-run", "--prompt", prompt)
    assert answer.err.splitlines()[:1] == ([hint] if hint else [])
    assert answer.out.splitlines()[0].endswith(f'prompts: ["{prompt}"]')


@pytest.mark.usefixtures("broker")
def test_whether_copies_are_computed_once_is_frozen_with_a_run_that_has_results(shell: Shell) -> None:
    write_csv(shell, *photographs(3))
    given = ("--csv", "faces.csv", "--prompt", "person")
    shell(enqueue, *given)
    told = shell(enqueue, *given, "--dedupe")
    assert "run faces had no results yet: dedupe False -> True" in told.out + told.err
    scenario.worker(shell.sessions)
    scenario.commit_all(shell.sessions, scenario.claim(shell.sessions, 1, 1), 0.9)
    assert "dedupe True there, False here" in shell(enqueue, *given, code=2).error


def test_https_images_are_taken_from_hosts_that_the_command_names_and_only_from_them(shell: Shell) -> None:
    urls = ("https://a.example.com/1.jpg", "https://b.example.com/2.jpg", "https://a.example.com/3.jpg?sig=canary")
    (shell.home / "web.csv").write_text("path\n" + "".join(f"{url}\n" for url in urls))
    given = ("--csv", "web.csv", "--prompt", "person", "--dry-run", "--no-check", "--exit-zero")
    hosts = ("--image-hosts", "a.example.com")

    named = shell(enqueue, *given, *hosts)
    assert "3 images in 1 chunk, 2 rejected" in named.out
    assert "image: https://a.example.com/1.jpg\n" in named.out
    assert "or SAM3_IMAGE_HOSTS names: b.example.com is none" in named.err
    assert "web.csv:4: the URL holds a signature or a token" in named.err
    assert "3 images in 0 chunks, 3 rejected" in shell(enqueue, *given).out
    assert "canary" not in named.out + named.err
    refused = shell(enqueue, *given, "--image-hosts", "https://a.example.com", code=2).error
    assert "'https://a.example.com' is no host; write images.example.com, *.example.org or host:8443" in refused
