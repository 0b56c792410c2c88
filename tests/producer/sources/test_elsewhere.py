"""Images that lie elsewhere than on a disk need other answers of one module only: here they lie in a dictionary."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from producer.results.files.names import mask_path
from producer.sources.check_files import check_files
from producer.sources.text.csv_source import CsvSource
from workers.errors import ErrorClass
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image
from workers.places import location, urls
from workers.places.location import FileSeen

SCHEME = "memory://"


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    return file.getvalue()


class Memory:
    """What `location` would turn to for places that begin with `memory://`."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def place(self, root: str, path: str) -> str:
        return path if path.startswith(SCHEME) else f"{root}/{path}"

    def normal(self, path: str) -> str:
        return path

    def absolute(self, place: str) -> str:
        return place

    def stat(self, place: str) -> FileSeen:
        if place not in self.files:
            raise FileNotFoundError(2, "no such key")
        return FileSeen(len(self.files[place]), 7)

    @contextmanager
    def opened(self, place: str, within: str | None = None) -> Iterator[tuple[FileSeen, BinaryIO]]:
        yield self.stat(place), io.BytesIO(self.files[place])


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory({f"{SCHEME}photos/a.png": png()})
    for name in ("place", "normal", "absolute", "stat", "opened"):
        monkeypatch.setattr(location, name, getattr(memory, name))
    monkeypatch.setattr(urls, "fault", lambda path: None)
    return memory


def test_they_are_recorded_looked_for_read_and_have_a_place_for_their_masks(tmp_path: Path) -> None:
    csv = tmp_path / "faces.csv"
    csv.write_text(f"path\n{SCHEME}photos/a.png\n{SCHEME}photos/gone.png\n")
    source = CsvSource(csv)
    there, gone = source.rows()
    assert (there.path, there.rejected) == (f"{SCHEME}photos/a.png", None)

    said: list[str] = []
    check_files(source, [there.path, gone.path], said.append)
    assert said == [f"warning: 1 of 2 images looked at are not there, such as '{SCHEME}photos/gone.png'"]

    place = location.place(str(source.root), there.path)
    image = read_image(place, ReadRules())
    assert (image.pixels.shape, image.file) == ((30, 40, 3), FileSeen(len(png()), 7))
    with pytest.raises(UnreadableImage) as refused:
        read_image(location.place(str(source.root), gone.path), ReadRules())
    assert refused.value.error_class == ErrorClass.MISSING

    assert str(mask_path("person", there.path, str(source.root))) == "person/memory:/photos/a.png.png"
