"""Reads the images of a chunk ahead, and gives in order what the model is to look at: each image, then its tiles.

Knows threads, files and sizes, but no batch and no model pass. An image that is cut stays in memory until its last tile
is made; the tiles are made a few at a time, so of a large image there are never more pixels than its own and theirs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from workers.errors import ErrorClass
from workers.inference import boxes
from workers.inference.items import Item, Outcome, Segmented, Unreadable
from workers.inference.protocol import Pixels, Segmenter
from workers.inference.reading.images import RGB, ReadImage, ReadRules, UnreadableImage, read_image
from workers.inference.stages import Report, Stage, timed
from workers.inference.stream.readahead import ReadAhead
from workers.inference.stream.repeats import Repeats, content_of
from workers.inference.tiles import View
from workers.places.location import FileSeen


@dataclass(frozen=True, eq=False)
class Ready:
    """An image that was read: the whole of it as the model takes it, and how it is looked at."""

    whole: Pixels
    views: tuple[View, ...]  # the first one is the whole image
    tiled: RGB | None  # the image itself, if there are tiles to cut from it
    file: FileSeen
    warning: str | None
    content: bytes | None = None  # if repeats are looked for


@dataclass(frozen=True)
class Repeat:
    """An image that gets the answers of an earlier image of the stream, which has the same content."""

    content: bytes
    file: FileSeen


@dataclass(frozen=True, eq=False)
class Piece:
    """One view of an image, for one row of a batch; or an image that is not looked at."""

    item: Item
    image: Ready | Repeat | Outcome
    pixels: Pixels | Unreadable | None = None  # None: the image is not looked at
    last: bool = True  # of its image


@dataclass(frozen=True)
class Preparation:
    """How images become pieces."""

    segmenter: Segmenter
    rules: ReadRules
    report: Report
    threads: int
    seconds: float  # an image, or a tile, that takes longer is unreadable
    batch_size: int  # pieces
    ahead: int  # how many pieces are made before they are asked for


class Pieces:
    """The pieces of these items, in order. One thread may iterate over it, once; any thread may close it."""

    def __init__(self, items: Sequence[Item], how: Preparation, repeats: Repeats[Outcome]) -> None:
        self._items, self._how, self._repeats = items, how, repeats
        tiled = any(item.tiling for item in items)
        large = how.rules.with_large_images(how.threads) if tiled else how.rules
        self._images: ReadAhead[Item, Ready | Unreadable] = ReadAhead(
            partial(_read, how=how, large=large), how.threads, how.seconds
        )
        self._tiles: ReadAhead[tuple[Item, Ready, View], Pixels | Unreadable] | None = None
        if tiled:
            self._tiles = ReadAhead(partial(_cut, how=how), how.threads, how.seconds)

    def __iter__(self) -> Iterator[Piece]:
        # Images are taken a batch at a time, because repeats are looked for in a whole batch at once. If images may be
        # cut, they are taken one at a time and no more are read ahead than there are threads: such an image stays in
        # memory with all its pixels until its last tile is made.
        how = self._how
        taken, ahead = how.batch_size, how.ahead
        if self._tiles is not None:
            taken, ahead = 1, min(ahead, how.threads)
        todo, waiting = iter(self._items), iter(self._items)
        self._read(islice(todo, ahead))
        while items := list(islice(waiting, taken)):
            self._read(islice(todo, taken))
            images = [self._image(item) for item in items]
            asked = [_asked(item, image) for item, image in zip(items, images, strict=True)]
            for item, image in self._without_repeats(asked, images):
                if isinstance(image, Ready):
                    yield from self._views(item, image)
                else:
                    yield Piece(item, image)

    def _read(self, items: Iterable[Item]) -> None:
        for item in items:
            self._images.submit(item)

    def _without_repeats(
        self, items: Sequence[Item], images: Sequence[Ready | Unreadable]
    ) -> Iterator[tuple[Item, Ready | Repeat | Outcome]]:
        """Each item with its image; with what is known instead, if it need not be looked at."""
        read = {item.id: image for item, image in zip(items, images, strict=True) if isinstance(image, Ready)}
        contents = {id: image.content for id, image in read.items() if image.content is not None}
        spared = self._repeats.spared(contents, {item.id for item in items if item.again}) if contents else {}
        for item, image in zip(items, images, strict=True):
            if item.id not in spared:
                yield item, image
                continue
            content, file, known = contents[item.id], read[item.id].file, spared[item.id]
            if known is None:
                yield item, Repeat(content, file)
            else:
                yield item, Segmented(item.id, known.width, known.height, known.found, file, known.warning, content)

    def close(self) -> None:
        """Start nothing new, and wait for what the threads work on, but not for one that hangs."""
        for threads in (self._images, self._tiles):
            if threads is not None:
                threads.close()

    def _image(self, item: Item) -> Ready | Unreadable:
        try:
            return self._images.take()
        except TimeoutError:
            # No seconds, as the thread that hangs has not ended.
            self._how.report(Stage.READ, 1, 0.0)
            return Unreadable(item.id, ErrorClass.TIMEOUT, f"reading it took longer than {self._how.seconds:g} s")

    def _views(self, item: Item, image: Ready) -> Iterator[Piece]:
        tiles = iter(image.views[1:])

        def submit(count: int) -> None:
            for view in islice(tiles, count):
                assert self._tiles is not None
                self._tiles.submit((item, image, view))

        submit(self._how.ahead)
        yield Piece(item, image, image.whole, last=len(image.views) == 1)
        for number in range(1, len(image.views)):
            submit(1)
            yield Piece(item, image, self._tile(item, image), last=number == len(image.views) - 1)

    def _tile(self, item: Item, image: Ready) -> Pixels | Unreadable:
        assert self._tiles is not None
        try:
            return self._tiles.take()
        except TimeoutError:
            said = f"cutting a tile took longer than {self._how.seconds:g} s"
            return Unreadable(item.id, ErrorClass.TIMEOUT, said, image.file)


def _asked(item: Item, image: Ready | Unreadable) -> Item:
    return item.asked_of(image.file) if isinstance(image, Ready) else item


def _read(item: Item, how: Preparation, large: ReadRules) -> Ready | Unreadable:
    """`large` are the rules for images that may be cut."""
    image: ReadImage | None = None
    try:
        image = read_image(item.path, large if item.tiling else how.rules, how.report)
        height, width = image.pixels.shape[:2]
        if wrong := boxes.fault(item.boxes, width, height):
            raise UnreadableImage(ErrorClass.BAD_BOX, wrong, image.file)
        views = item.tiling.views(width, height) if item.tiling else (View(0, 0, width, height),)
        with timed(how.report, Stage.PREPROCESS):
            whole = replace(how.segmenter.preprocess(image.pixels), boxes=item.boxes)
            content = None
            if image.digest is not None:
                prompts = item.asked_of(image.file).prompts
                content = content_of(image.digest, prompts, item.tiling, item.boxes)
        tiled = image.pixels if len(views) > 1 else None
        return Ready(whole, views, tiled, image.file, image.warning, content)
    except Exception as error:  # of this image only: the others of the batch go on
        return _unreadable(item, error, image.file if image else None)


def _cut(tile: tuple[Item, Ready, View], how: Preparation) -> Pixels | Unreadable:
    item, image, view = tile
    assert image.tiled is not None
    x1, y1, x2, y2 = view.edges
    try:
        with timed(how.report, Stage.PREPROCESS, 0):
            return how.segmenter.preprocess(image.tiled[y1:y2, x1:x2])
    except Exception as error:
        return _unreadable(item, error, image.file)


def _unreadable(item: Item, error: Exception, file: FileSeen | None) -> Unreadable:
    match error:
        case UnreadableImage():
            return Unreadable(item.id, error.error_class, error.message, error.file)
        case MemoryError():
            return Unreadable(item.id, ErrorClass.OUT_OF_MEMORY, "does not fit into memory", file)
    return Unreadable(item.id, ErrorClass.INTERNAL, f"{type(error).__name__}: {error}", file)
