"""How prompts are typed with their classes, and which numbers classes get."""

import pytest

from db.classes import NamedClass, Wording, classes_as_text, classes_of_text, numbered_classes


@pytest.mark.parametrize(
    ("typed", "text", "class_name"),
    [
        ("person", "person", "person"),
        ("shipping container=container", "shipping container", "container"),
        (" cargo box = container ", "cargo box", "container"),
        ("x==y", "x=y", "x=y"),
        ("x==y=z", "x=y", "z"),
        ("x=y==z", "x", "y=z"),
        ("x===z", "x=", "z"),
    ],
)
def test_a_prompt_is_its_own_class_unless_it_names_one(typed: str, text: str, class_name: str) -> None:
    wording = Wording.read(typed)

    assert (wording.text, wording.class_name) == (text, class_name)
    assert Wording.read(str(wording)) == wording


def test_a_class_with_the_name_of_its_text_is_no_other_prompt() -> None:
    assert str(Wording.read("person=person")) == "person"


@pytest.mark.parametrize(
    ("typed", "wrong"),
    [
        ("a=b=c", "more than one =; write text=class, and == for a sign = in a text"),
        ("=b", "= without a text before it and a class behind it; write == for a sign ="),
        ("a=", "= without a text before it and a class behind it; write == for a sign ="),
    ],
)
def test_what_is_no_text_with_a_class_is_refused_with_the_cure(typed: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Wording.read(typed)


def test_classes_are_numbered_by_order_after_those_of_a_file() -> None:
    listed = (NamedClass(7, "hat"), NamedClass(3, "person", (1, 2, 3)))

    assert {name: one.id for name, one in numbered_classes((), ["b", "a", "b"]).items()} == {"b": 1, "a": 2}
    assert {name: one.id for name, one in numbered_classes(listed, ["cat", "hat"]).items()} == {
        "hat": 7, "person": 3, "cat": 8
    }  # fmt: skip
    assert classes_of_text(classes_as_text(listed)) == listed
    assert classes_of_text(None) == ()
