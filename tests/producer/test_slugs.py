"""Names of runs and prompts in any script: readable, and never the same for two prompts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.slugs import LONGEST_RUN, prompt_slugs, run_slug


def test_slugs_are_plain_and_equal_ones_are_numbered() -> None:
    assert prompt_slugs(["person", "Red car", "red-car", "red car!", "!", "…"]) == {
        "person": "person",
        "Red car": "red_car",
        "red-car": "red_car_2",
        "red car!": "red_car_3",
        "!": "prompt",
        "…": "prompt_2",
    }


def test_a_slug_that_looks_numbered_stays_unique() -> None:
    assert list(prompt_slugs(["a b", "a_b_2", "a-b"]).values()) == ["a_b", "a_b_2", "a_b_3"]


@settings(deadline=None)
@given(st.lists(st.text("aA_ 2é", max_size=8), unique=True))
def test_two_prompts_never_share_a_slug(texts: list[str]) -> None:
    slugs = prompt_slugs(texts)
    assert len(set(slugs.values())) == len(texts)
    assert list(prompt_slugs([*texts, "one more"]).values())[: len(texts)] == list(slugs.values())


@pytest.mark.long
def test_a_hundred_thousand_prompts_without_a_latin_letter_get_their_slugs() -> None:
    slugs = list(prompt_slugs(chr(0x20000 + number) for number in range(100_000)).values())
    assert slugs[:2] == ["prompt", "prompt_2"]
    assert len(set(slugs)) == 100_000


def test_prompts_of_any_script_are_told_apart_by_their_letters() -> None:
    assert prompt_slugs(["красная машина", "café au lait", "猫", "Straße", "1,000 men", "кот", "kot", "🐈"]) == {
        "красная машина": "krasnaia_mashina",
        "café au lait": "cafe_au_lait",
        "猫": "mao",
        "Straße": "strasse",
        "1,000 men": "1_000_men",
        "кот": "kot",
        "kot": "kot_2",
        "🐈": "prompt",
    }


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("My photos (2)", "My-photos--2-"),
        ("faces_v1.2", "faces_v1.2"),
        ("写真", "Xie-Zhen"),
        ("Größe 2024.v1", "Grosse-2024.v1"),
        ("Фото из отпуска", "Foto-iz-otpuska"),
        ("📷", "run-6a8fe57e"),
        ("...", "run-ab5df625"),
        ("", "run-e3b0c442"),
    ],
)
def test_a_run_gets_a_name_that_is_safe_everywhere(text: str, slug: str) -> None:
    assert run_slug(text) == slug


@given(st.text(max_size=150))
def test_every_text_makes_a_name_of_a_run(text: str) -> None:
    slug = run_slug(text)
    assert slug.isascii()
    assert 1 <= len(slug) <= LONGEST_RUN
    assert run_slug(slug) == slug


def test_two_long_names_are_two_runs() -> None:
    assert len({run_slug("x" * 200), run_slug("x" * 201), run_slug("猫" * 70)}) == 3
