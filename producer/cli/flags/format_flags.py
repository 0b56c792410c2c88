"""The flags of sam3-export that only some formats take. Declares them and checks single values; knows no format.

The words behind `For` in a help text are the formats that take the flag.
"""

from pathlib import Path

import click

from producer.cli.flags.param_types import MASK_FOLDER, Share
from workers.cli.base import flag_group

MASKS = (
    click.option(
        "--select",
        type=click.Choice(["union", "best", "largest"]),
        help="For png and cutout: all instances together (union, the default), the best score, or the largest.",
    ),
    click.option(
        "--each", is_flag=True, help="For png and cutout: a file for each instance instead of one for all of a prompt."
    ),
    click.option(
        "--index",
        type=click.Choice(["prompt", "instance"]),
        help="For png: one label map for each image, whose pixels are numbers of prompts or of instances.",
    ),
    click.option("--empty", type=click.Choice(["black"]), help="For png: also a mask where nothing was found."),
    click.option("--invert", is_flag=True, help="For png: white is what was not found."),
    click.option(
        "--dilate",
        type=click.IntRange(-1000, 1000),
        metavar="PX",
        help="For png and cutout: make masks so much larger.",
    ),
    click.option(
        "--feather",
        type=click.IntRange(0, 1000),
        metavar="PX",
        help="For png and cutout: soften the edge on both sides.",
    ),
    click.option(
        "--trimap", type=click.IntRange(0, 1000), metavar="PX", help="For png: 128 so far on both sides of the edge."
    ),
    click.option(
        "--name",
        metavar="TEMPLATE",
        help="For png and cutout: names of the files, with {name} or {stem} of the image; {name}.png if left out.",
    ),
)
DATASETS = (
    click.option(
        "--merge",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="For coco: an existing COCO file; -o gets all of it unchanged, and our categories beside its own.",
    ),
    click.option(
        "--shard-images",
        type=click.IntRange(min=1),
        metavar="N",
        help="For webdataset: images of a file (1000 if left out); for coco: fill the folder -o with files of so many.",
    ),
    click.option(
        "--image-url",
        metavar="PREFIX",
        help="For label-studio: what comes before the path of an image (/data/local-files/?d= if left out).",
    ),
    click.option("--crop", is_flag=True, help="For cutout: only the box around the mask, not the whole image."),
    click.option(
        "--background", metavar="COLOUR", help="For cutout: blur, or a colour such as white, instead of nothing."
    ),
    click.option(
        "--split",
        type=Share(),
        help="For yolo-seg: share of the images in train, the others in val (0.9 if left out); their paths decide.",
    ),
)
TABLES = (
    click.option(
        "--masks",
        metavar="DIR",
        type=MASK_FOLDER,
        help="For csv: the folder that png masks were exported to (default: the one in a sam3-run folder).",
    ),
    click.option(
        "--spreadsheet-safe",
        is_flag=True,
        help="For csv: put ' before cells that a spreadsheet would run as a formula.",
    ),
    click.option("--flat", is_flag=True, help="For jsonl and parquet: a row an instance instead of a row an image."),
)

format_flags = flag_group(*MASKS, *DATASETS, *TABLES)
