"""Reads the whole content of an image's file, or says why it cannot be had. Decodes nothing.

The place of an image may be on a disk or elsewhere: `workers.places.location` knows.
"""

from workers.errors import ErrorClass
from workers.inference.reading.rules import ReadRules, UnreadableImage
from workers.places import location
from workers.places.location import FileSeen


def read_content(path: str, rules: ReadRules) -> tuple[bytes, FileSeen]:
    """Read the whole file, so that errors of the disk and of the decoder are told apart.

    Also returns size and time of the file before it was read, so that a later look notices a change meanwhile.
    """
    if rules.root is not None and location.leaves(location.normal(rules.root), location.normal(path)):
        raise UnreadableImage(ErrorClass.OUTSIDE_ROOT, f"the path leaves {rules.root}")
    try:
        with location.opened(path, None if rules.follow_symlinks else rules.root) as (seen, file):
            if seen.size > rules.max_bytes:
                said = f"{seen.size:,} bytes, over the limit of {rules.max_bytes:,}"
                raise UnreadableImage(ErrorClass.TOO_LARGE, said, seen)
            data = file.read(rules.max_bytes + 1)  # the file may have grown since it was checked
    except (OSError, ValueError) as error:
        raise _not_to_be_had(error, rules) from None
    if len(data) > rules.max_bytes:
        raise UnreadableImage(ErrorClass.TOO_LARGE, f"over the limit of {rules.max_bytes:,} bytes", seen)
    return data, seen


def _not_to_be_had(error: OSError | ValueError, rules: ReadRules) -> UnreadableImage:
    match error:
        case PermissionError():
            return UnreadableImage(ErrorClass.PERMISSION, f"may not be read: {_begun_small(str(error.strerror))}")
        case location.Unanswered():  # `workers.node.servers` judges whether the surroundings are the reason
            return UnreadableImage(ErrorClass.NO_ANSWER, f"no answer: {error.strerror}")
        case location.NotRegular():
            return UnreadableImage(ErrorClass.NOT_AN_IMAGE, str(error.strerror))
        case location.LinkLeavesRoot():
            return UnreadableImage(ErrorClass.OUTSIDE_ROOT, f"a symbolic link leaves {rules.root}")
        case OSError():  # among them ESTALE, EIO and ENOTCONN, the errors of a lost mount
            return UnreadableImage(ErrorClass.MISSING, f"cannot be opened: {error.strerror}")
    return UnreadableImage(ErrorClass.BAD_PATH, f"cannot name a file: {error}")  # a NUL in the path


def _begun_small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
