"""What a folder of PNG masks shows, and how its files are called: the flags that only png has. Knows no pixels."""

from dataclasses import asdict, dataclass
from typing import Any

from producer.libraries import is_installed
from producer.results.files.names import DEFAULT_EACH, DEFAULT_NAME, template_fault
from workers.errors import UsageError

PROMPT = "prompt"  # what the numbers of a label map stand for, if it is not instances


@dataclass(frozen=True)
class MaskStyle:
    """The flags of `sam3-export --format png` with the same names; without any of them a mask is 0 and 255.

    A mask is first made larger (`dilate`), then inverted, then given a soft edge (`feather`) or an unknown band
    (`trimap`). Lengths are in pixels.
    """

    each: bool = False  # a file for each instance instead of one for each result
    index: str | None = None  # a label map for each image, with numbers of its prompts or of its instances
    empty: str | None = None  # black: also a mask where nothing was found
    invert: bool = False  # 255 is what was not found
    dilate: int = 0  # so much larger on all sides; below 0: smaller
    feather: int = 0  # from 0 to 255 within so much on both sides of the edge
    trimap: int = 0  # 128 within so much on both sides of the edge
    name: str | None = None  # template of a file's name; None: that of the image with .png

    def __post_init__(self) -> None:
        """Raises `UsageError` for flags that exclude each other, or that need a library that is not installed."""
        edits = self.edits
        if self.each and self.index:
            raise UsageError("--each and --index: a file shows one instance, or all as a label map; give one of them")
        if self.index and edits:
            raise UsageError(
                f"--index {self.index}: its pixels are numbers, so --{next(iter(edits))} cannot change them"
            )
        if self.each and self.empty:
            raise UsageError(
                f"--empty {self.empty}: with --each there is a file for each instance, so none without one"
            )
        if self.feather and self.trimap:
            raise UsageError("--feather and --trimap: an edge is soft or unknown; give one of them")
        if fault := template_fault(self.template, each=self.each):
            raise UsageError(f"--name {self.template}: {fault}")
        if edits.keys() - {"invert"} and not is_installed("cv2"):
            raise UsageError(f"--{next(iter(edits))} needs cv2: pip install 'sam3-queue[export]'")

    @property
    def template(self) -> str:
        """Of the name of a file, see `names.mask_path`."""
        return self.name or (DEFAULT_EACH if self.each else DEFAULT_NAME)

    @property
    def edits(self) -> dict[str, Any]:
        """What is done to the pixels of a mask, as arguments of `drawing.edited`."""
        chosen = {"dilate": self.dilate, "invert": self.invert, "feather": self.feather, "trimap": self.trimap}
        return {name: value for name, value in chosen.items() if value}

    @property
    def layout(self) -> tuple[bool, str | None, str]:
        """What names and number of the files depend on. A folder has one layout."""
        return self.each, self.index, self.template

    @property
    def given(self) -> dict[str, Any]:
        """The flags that were given, by name."""
        return {name: value for name, value in asdict(self).items() if value}

    def typed(self) -> list[str]:
        """The flags as words of a command."""
        words: list[str] = []
        for name, value in self.given.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


PLAIN = MaskStyle()
