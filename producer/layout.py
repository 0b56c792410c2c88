"""Names of what our commands leave in output folders, so that nobody takes it for something of the user's."""

STATE_FOLDER = ".sam3"  # in the folder of a sam3-run, unless it was told another
DATABASE_FILE = "sam3.db"  # in the state folder
RESULTS = {"results": "results.csv", "masks": "masks", "preview": "preview.jpg"}
MASK_MARK = b"sam3-run\0"  # how the text chunk begins that every PNG mask of ours has in its first bytes
MASK_HEAD_BYTES = 1024  # so far into the file it can stand

_RUN_FILE_KEYS = (b"\nsource:", b"\noutput:", b"\nrun:")


def is_run_file(content: bytes) -> bool:
    """Whether a file of that name is one that sam3-run wrote."""
    return all(key in b"\n" + content for key in _RUN_FILE_KEYS)


def is_mask(head: bytes) -> bool:
    """Whether a PNG with these first `MASK_HEAD_BYTES` was exported by us."""
    return b"tEXt" + MASK_MARK in head
