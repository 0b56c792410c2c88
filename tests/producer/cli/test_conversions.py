"""The command that we advise for a file that is no plain CSV makes one of it, and touches no other file."""

import gzip
import re
import subprocess

import pytest

from producer.cli.enqueue import main as enqueue
from tests.producer.cli.conftest import Shell

TABLE = "path;n\nphotos/é.png;1\n"
LATIN = {
    "in a row": TABLE.encode("latin-1"),
    "in the header": TABLE.replace("n\n", "é\n", 1).encode("latin-1"),
    "without a mark": TABLE.encode("utf-16-be"),
}
OTHERS = {
    "UTF-16": TABLE.replace(";", ",").encode("utf-16"),
    "gzip without its ending": gzip.compress(TABLE.replace(";", ",").encode()),
    "semicolons": TABLE.encode(),
    "made for Excel": f"sep=;\n{TABLE}".encode(),
    "made for Excel with commas": f"sep=,\n{TABLE.replace(';', ',')}".encode(),
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_a_file_that_is_no_plain_csv_is_converted_beside_it_without_touching_another(
    shell: Shell, content: bytes
) -> None:
    folder = shell.home / "my data"
    folder.mkdir()
    for name in ("utf8.csv", "commas.csv", "unpacked.csv", "table.csv"):
        (folder / name).write_bytes(content)
    before = {path: path.read_bytes() for path in folder.iterdir()}

    given = "my data/utf8.csv"
    for _ in range(3):  # one conversion may show what the next has to be
        answer = shell(enqueue, "--csv", given, "--prompt", "person", "--dry-run", "--no-check", code=None)
        commands = re.findall(r"(?:iconv|gunzip|python3|tail) .*", answer.err)
        if not commands:
            break
        subprocess.run(["/bin/sh", "-c", commands[0]], check=True)
        [given] = re.findall(r"> '(my data/.*)'$", commands[0])

    assert answer.out.startswith("would record run ")
    assert "rejected" not in answer.out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("content", LATIN.values(), ids=LATIN)
def test_a_file_in_an_unknown_encoding_is_read_by_the_flag_that_is_advised(shell: Shell, content: bytes) -> None:
    (shell.home / "images.csv").write_bytes(content)
    command = ("--csv", "images.csv", "--prompt", "person", "--dry-run", "--no-check")

    refused = shell(enqueue, *command, code=2).err
    advised = re.findall("--encoding [a-z0-9-]+", refused)[0].split()

    answer = shell(enqueue, *command, *advised)
    assert answer.out.startswith("would record run images: 1 image ")
    assert answer.err.splitlines()[0] == "reading images.csv with semicolons between its cells"


def test_a_run_is_resumed_by_the_same_command_and_told_once_how_it_is_read(shell: Shell, broker: str) -> None:
    csv = shell.home / "images.csv"
    csv.write_bytes("path\tn\r\né.png\t1\r\n".encode("utf-16"))
    command = ("--csv", "images.csv", "--prompt", "person", "--json")

    for content, images in (("", 1), ("ü.png\t2\r\n", 2)):
        csv.write_bytes(csv.read_bytes() + content.encode("utf-16-le"))
        answer = shell(enqueue, *command)
        assert (answer.json["images"], answer.json["rejected"]) == (images, 0)
        assert answer.err.count("reading images.csv as UTF-16-LE with tabs between its cells") == 1


def test_a_run_that_was_read_in_a_wrong_way_is_read_again_in_another(shell: Shell, broker: str) -> None:
    (shell.home / "images.csv").write_bytes("path,n\n1.png,é\né.png,2\n".encode("cp1252"))
    command = ("--csv", "images.csv", "--prompt", "person", "--json", "--encoding")

    assert shell(enqueue, *command, "utf-8", code=1).json["rejected"] == 2
    right = shell(enqueue, *command, "cp1252", code=None).json

    assert (right["images"], right["gone"]) == (4, 2)
    assert shell(enqueue, *command, "cp1252", code=None).json == right | {"queued": 0}
