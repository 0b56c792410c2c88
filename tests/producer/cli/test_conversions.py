"""The command that we advise for a file that is no plain CSV makes one of it, and touches no other file."""

import gzip
import re
import subprocess

import pytest

from producer.cli.enqueue import main as enqueue
from tests.producer.cli.conftest import Shell

TABLE = "path;n\nphotos/é.png;1\n"
OTHERS = {
    "UTF-16": TABLE.replace(";", ",").encode("utf-16"),
    "latin-1 in a row": TABLE.replace(";", ",").encode("latin-1"),
    "latin-1 in the header": TABLE.replace(";", ",").replace("n\n", "é\n", 1).encode("latin-1"),
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
