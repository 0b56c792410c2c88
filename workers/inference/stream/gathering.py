"""Puts what was found in the pieces of an image together to its outcome. Knows no threads and no model."""

from dataclasses import replace

from workers.inference.answers import Found
from workers.inference.items import Item, Outcome, Segmented, Unreadable
from workers.inference.shapes.seams import joined
from workers.inference.stream.pieces import Piece, Ready, Repeat
from workers.inference.stream.repeats import Repeats

Answer = tuple[Found, ...] | Unreadable
"""What was found in a piece, for each prompt; or why it could not be looked at."""


class Gathering:
    """The answers to the pieces of the image that is not complete yet; its pieces come one after the other."""

    def __init__(self, repeats: Repeats[Outcome]) -> None:
        self._repeats = repeats
        self._answers: list[Answer] = []

    def add(self, piece: Piece, answer: Answer | None) -> list[Outcome]:
        """The outcome of the image, if this is its last piece. `answer` is None if its image is not looked at."""
        match piece.image:
            case Repeat(content, file):
                return [replace(self._repeats.earlier(content), id=piece.item.id, file=file)]
            case Segmented() | Unreadable():
                return [piece.image]
        assert answer is not None
        self._answers.append(answer)
        if not piece.last:
            return []
        answers, self._answers = self._answers, []
        outcome = _outcome(piece.item, piece.image, answers)
        if piece.image.content is not None:
            self._repeats.answer(piece.image.content, outcome)
        return [outcome]

    def given_up(self) -> list[Outcome]:
        """The outcome of an image that stays incomplete, as one of its pieces could not be looked at."""
        failed: list[Outcome] = [answer for answer in self._answers if isinstance(answer, Unreadable)]
        return failed[:1]


def _outcome(item: Item, image: Ready, answers: list[Answer]) -> Outcome:
    found: list[tuple[Found, ...]] = []
    for answer in answers:
        if isinstance(answer, Unreadable):
            return answer
        found.append(answer)
    width, height = image.views[0].width, image.views[0].height
    return Segmented(item.id, width, height, joined(image.views, found), image.file, image.warning, image.content)
