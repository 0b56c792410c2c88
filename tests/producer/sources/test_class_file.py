"""The file of --classes: the categories of a COCO file."""

import json
from pathlib import Path

import pytest

from db.classes import NamedClass
from producer.sources.class_file import read_classes
from workers.errors import UsageError


def test_the_categories_of_any_coco_file_are_classes_in_the_order_of_their_ids(tmp_path: Path) -> None:
    file = tmp_path / "instances_val.json"
    hat = {"id": 27, "name": " red  hat", "supercategory": "accessory", "color": [255, 0, 9], "isthing": 1}
    file.write_text(json.dumps({"annotations": [], "categories": [hat, {"id": 1, "name": "person"}]}))

    assert read_classes(file) == (NamedClass(1, "person"), NamedClass(27, "red hat", (255, 0, 9)))


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("names: [a]", "is no JSON"),
        ("[]", "has no list of categories, as COCO files have"),
        ('{"categories": []}', "has no list of categories, as COCO files have"),
        ('{"categories": [{"id": 0, "name": "a"}]}', "needs an id from 1 to 65535; 0 is what is not found"),
        ('{"categories": [{"id": "1", "name": "a"}]}', "needs an id from 1 to 65535"),
        ('{"categories": ["a"]}', "the category a needs an id"),
        ('{"categories": [{"id": 1, "name": " "}]}', "category 1 needs a name"),
        ('{"categories": [{"id": 1, "name": "a", "color": "red"}]}', "the color of category 1 is three numbers"),
        ('{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "2 categories have the id 1"),
        ('{"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "2 categories have the name a"),
    ],
)
def test_what_is_no_list_of_classes_is_one_line(tmp_path: Path, content: str, wrong: str) -> None:
    file = tmp_path / "classes.json"
    file.write_text(content)

    with pytest.raises(UsageError, match=wrong) as error:
        read_classes(file)
    assert str(error.value).startswith(f"--classes {file}")
