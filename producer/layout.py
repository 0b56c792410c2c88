"""Names and marks of the files that our commands write to output folders, so that they are recognised as ours.

Knows no more of their content than these marks.
"""

STATE_FOLDER = ".sam3"  # in the output folder of a sam3-run, unless --state-dir names another
DATABASE_FILE = "sam3.db"  # in the state folder
RESULTS = {"results": "results.csv", "masks": "masks", "preview": "preview.jpg"}
MASKS_RECORD = ".sam3-masks.json"  # in a folder of masks: how they were made
ORIGIN_SUFFIX = ".sam3-export"  # of a file that says how the one beside it was made: `.results.csv.sam3-export`
EXPORT_RECORD = ".sam3-export.json"  # the same in the folder of another format with files for each image
# Marks of the objects that exports put into a bucket. Their names are letters and digits, as Azure wants them.
OBJECT_RUN, OBJECT_DIGEST = "sam3run", "sam3digest"
LINKS = "images"  # below such a folder: links to the images that were exported
MASK_MARK = b"sam3-run\0"  # start of a text chunk that each of our PNG masks has
MASK_HEAD_BYTES = 1024  # that text chunk ends within so many bytes of the file's start
TABLE_ORIGIN = "sam3-queue"  # key of the metadata of our Parquet files that says how each was made
TABLE_TAIL_BYTES = 1 << 16  # the metadata are among so many bytes of the file's end

_RUN_FILE_KEYS = (b"\nsource:", b"\noutput:", b"\nrun:")
STDIN_SUFFIX = ".stdin"  # of the name of a file that holds what was piped into a command


def is_run_file(content: bytes) -> bool:
    """Whether a file named run.yaml with this content was written by sam3-run."""
    return all(key in b"\n" + content for key in _RUN_FILE_KEYS)


def is_mask(head: bytes) -> bool:
    """Whether a PNG whose first `MASK_HEAD_BYTES` are `head` was written by our exports."""
    return b"tEXt" + MASK_MARK in head


def is_table(tail: bytes) -> bool:
    """Whether a Parquet file whose last `TABLE_TAIL_BYTES` are `tail` was written by our export.

    Its metadata are pairs of texts in Thrift's compact form: the type and place of the key, its length, the key, and
    the type and place of the value. A mere value of a column does not look like that.
    """
    return b"\x18%c%s\x18" % (len(TABLE_ORIGIN), TABLE_ORIGIN.encode()) in tail
