"""Whether the files that `sam3-export` writes say what SQL says, counted here anew. Knows none of our exports' code."""

import csv
import json
from collections import Counter
from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Image, Instance, Prompt, Result, Run
from db.session import read
from db.states import ImageState
from tests.chaos.world import World


class Truth:
    """What the database says of one run."""

    def __init__(self, session: Session, name: str) -> None:
        run = session.execute(select(Run).where(Run.name == name)).scalar_one()
        of_run = (Image.run_id == run.id, Image.load == run.load if run.source_ended else Image.run_id == run.id)
        place = func.coalesce(Image.position, Image.row)
        images = session.execute(select(Image).where(*of_run).order_by(place)).scalars().all()
        found = select(Image.path, Prompt.text, func.count()).join(Instance, Instance.image_id == Image.id)
        found = found.join(Prompt, Prompt.id == Instance.prompt_id).where(*of_run, Prompt.every_image)
        found = found.where(Image.state == ImageState.DONE, Instance.score >= run.threshold)
        self.masks, counts = set[str](), Counter[str]()
        for path, prompt, count in session.execute(found.group_by(Image.path, Prompt.text)):
            self.masks.add(f"{prompt}/{path}.png")
            counts[path] += count
        self.done = {image.path: counts[image.path] for image in images if image.state == ImageState.DONE}
        self.table = [(image.path, self._status(image)) for image in images]
        wrong = select(func.count()).select_from(Result).join(Image, Image.id == Result.image_id)
        self.stray = session.execute(wrong.where(*of_run, Image.state != ImageState.DONE)).scalar_one()

    def _status(self, image: Image) -> str:
        if image.state != ImageState.DONE:
            return image.state
        return "segmented" if self.done[image.path] else "empty"


def disagreements(world: World, name: str) -> Iterator[str]:
    """One line for each file of this run that says something else than its rows."""
    truth = read(world.sessions, Truth, name)
    folder = world.here.home / "end" / name
    folder.mkdir(parents=True)
    for kind, out in (("csv", "table.csv"), ("coco", "coco.json"), ("png", "masks")):
        world.here.run("sam3-export", name, "--format", kind, "-o", str(folder / out))
    with (folder / "table.csv").open(newline="") as file:
        table = [(row["path"], row["sam3_status"]) for row in csv.DictReader(file)]
    if table != truth.table:
        odd = sorted(set(table) ^ set(truth.table))[:5]
        yield f"{name}: the CSV has {len(table)} rows, SQL {len(truth.table)}, or in another order; different: {odd}"
    coco = json.loads((folder / "coco.json").read_text())
    paths = {image["id"]: image["file_name"] for image in coco["images"]}
    counts = Counter(paths[annotation["image_id"]] for annotation in coco["annotations"])
    if {path: counts[path] for path in paths.values()} != truth.done:
        yield f"{name}: COCO has {len(paths)} images with {counts.total()} instances, SQL {len(truth.done)}"
    masks = {str(path.relative_to(folder / "masks")) for path in (folder / "masks").rglob("*.png")}
    if masks != truth.masks:
        different = sorted(masks ^ truth.masks)[:5]
        yield f"{name}: {len(masks)} masks were written, of {len(truth.masks)} in SQL; different: {different}"
    if truth.stray:
        yield f"{name}: {truth.stray} results belong to images that are not done"
