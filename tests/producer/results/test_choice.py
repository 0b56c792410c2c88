"""Which instances count: by class, by size, and by what overlaps. The wordings of a class are joined before that."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torchvision.ops import batched_nms

from db.classes import NamedClass
from db.values import FoundInstance, PromptResult
from db.views.run_views import RunView
from producer.results.choice import Choice, Chooser, read_thresholds
from tests.producer.results import test_overlaps
from tests.producer.results.finished import Finished

SIZE = test_overlaps.SIZE


@pytest.fixture
def view(run: Finished) -> RunView:
    """Three prompts: 1 and 2 are wordings of the class box, 3 is the class hat."""
    classes = {1: NamedClass(1, "box"), 2: NamedClass(2, "hat")}
    prompts = {1: "box", 2: "crate", 3: "hat"}
    return replace(run.view, prompts=prompts, every_image=(1, 2, 3), classes=classes, class_of={1: 1, 2: 1, 3: 2})


def results(seed: int = 1) -> list[PromptResult]:
    """What the three prompts found."""
    return [
        PromptResult(prompt, prompt / 10, prompt == 2, tuple(test_overlaps.found(seed + prompt, 20)))
        for prompt in (1, 2, 3)
    ]


def chosen(view: RunView, choice: Choice, given: Sequence[PromptResult]) -> dict[int, list[FoundInstance]]:
    choose = Chooser(view, choice)
    given = [replace(one, instances=at_least(one, choose.least_score)) for one in given]
    return {one.class_id: list(one.instances) for one in choose(given, SIZE)}


def at_least(result: PromptResult, score: float) -> tuple[FoundInstance, ...]:
    return tuple(instance for instance in result.instances if instance.score >= score)


def test_the_wordings_of_a_class_are_one_result_with_the_best_instance_first(view: RunView) -> None:
    box, hat = Chooser(view, Choice(0.3))(results(), SIZE)

    scores = [instance.score for instance in box.instances]
    assert (box.class_id, hat.class_id, len(scores), len(hat.instances)) == (1, 2, 40, 20)
    assert scores == sorted(scores, reverse=True)
    assert (box.presence, box.capped, hat.presence, hat.capped) == (0.2, True, 0.3, False)


def test_a_class_may_have_a_threshold_of_its_own(view: RunView) -> None:
    choice = Choice.made(view, {"hat": 0.9, None: 0.4})
    found = chosen(view, choice, results())

    assert Chooser(view, choice).least_score == 0.4
    assert 0.4 <= min(one.score for one in found[1]) < 0.6
    assert min(one.score for one in found[2]) >= 0.9
    assert Chooser(view, Choice.made(view, {"hat": 0.35})).least_score == 0.35


def test_overlaps_are_judged_within_a_class_as_torchvision_does(view: RunView) -> None:
    given = [one for result in results() for one in result.instances]
    labels = [1] * 40 + [2] * 20
    boxes = torch.tensor([one.box for one in given], dtype=torch.float64)
    scores = torch.tensor([one.score for one in given], dtype=torch.float64)
    for across in (False, True):
        groups = torch.zeros(60) if across else torch.tensor(labels)
        stay = batched_nms(boxes, scores, groups, 0.3).tolist()
        expected = {label: [given[n] for n in stay if labels[n] == label] for label in (1, 2)}

        choice = Choice.made(view, {None: 0.3}, nms=0.3, nms_across=across, iou="box")

        assert chosen(view, choice, results()) == expected
        assert len(stay) < 60


def test_the_size_comes_first_then_what_overlaps_then_the_number(view: RunView) -> None:
    """A small instance hides none, and one that is hidden takes no place among the best."""
    large, small = ((10.0, 10.0, 30.0, 30.0), 400), ((10.0, 10.0, 29.0, 29.0), 90)
    other = ((50.0, 40.0, 60.0, 47.0), 120)
    scores = {0.9: small, 0.8: large, 0.7: large, 0.6: other, 0.5: large}
    found = tuple(FoundInstance(score, box, area, b"") for score, (box, area) in scores.items())
    choice = Choice(0.3, min_area=100, nms=0.5, iou="box", max_instances=2)

    assert [one.score for one in chosen(view, choice, [PromptResult(1, 0.9, False, found)])[1]] == [0.8, 0.6]


@pytest.mark.parametrize(
    ("text", "thresholds"),
    [
        ("0.5", {None: 0.5}),
        ("1.", {None: 1.0}),
        ("person=1e-05", {"person": 1e-05}),
        (" 0.5, person = .7,red car=1", {None: 0.5, "person": 0.7, "red car": 1.0}),
        ("salt, pepper=0.4,x=y=0.6", {"salt, pepper": 0.4, "x=y": 0.6}),
    ],
)
def test_thresholds_are_read_from_one_text(text: str, thresholds: dict[str | None, float]) -> None:
    assert read_thresholds(text) == thresholds


@pytest.mark.parametrize("text", ["", "person", "1.5", "person=", "=0.5", "0.5,0.6", "a=0.5,a=0.6", "nan", "0.5,,"])
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give "):
        read_thresholds(text)


@pytest.mark.parametrize(
    ("thresholds", "others", "wrong"),
    [
        ({"hta": 0.5}, {}, "threshold hta=0.5: the run has no class hta; it has box, hat"),
        ({"crate": 0.5}, {}, "threshold crate=0.5: the run has no class crate; it has box, hat"),
        ({None: 0.2}, {}, "threshold 0.2: the run keeps instances from 0.3 to 1; nothing below was recorded"),
        ({"hat": 0.2}, {}, "threshold hat=0.2: the run keeps instances from 0.3 to 1; nothing below was recorded"),
        ({}, {"nms": 0.0}, "nms 0.0: a share above 0 and up to 1"),
        ({}, {"contain": 1.1}, "contain 1.1: a share above 0 and up to 1"),
        ({}, {"nms_across": True}, "nms_across: it says how nms or contain compares; give one of them, too"),
        ({}, {"nms": 0.5, "iou": "outline"}, "iou outline: mask or box"),
    ],
)
def test_a_choice_that_this_run_cannot_serve_is_refused_in_one_line(
    view: RunView, thresholds: dict[str | None, float], others: dict[str, object], wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong):
        Choice.made(view, thresholds, **others)


def test_without_pycocotools_overlaps_are_refused_with_the_cure(view: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.results.choice.is_installed", lambda name: False)

    assert Choice.made(view, {"hat": 0.7}, max_instances=1)
    with pytest.raises(ValueError, match=r"contain: it needs pycocotools: pip install 'sam3-queue\[export\]'"):
        Choice.made(view, {}, contain=0.9)


def test_a_folder_remembers_the_whole_choice(view: RunView) -> None:
    whole = Choice(0.5, (("hat", 0.6),), 9, 0.7, 0.9, True, "box", 3)
    for choice in (Choice(0.5), Choice(0.5, min_area=4), whole):
        assert Choice.recorded(choice.record()) == choice
    typed = "--threshold hat=0.6 --min-area 9 --nms 0.7 --contain 0.9 --iou box --max-instances 3 --nms-across"
    assert " ".join(whole.typed(view)) == typed
    assert Choice(0.5).record().keys() == {"threshold", "min_area", "max_instances"}  # as releases before wrote it
