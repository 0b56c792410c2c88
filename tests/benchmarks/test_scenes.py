"""What our segmenter finds in drawn scenes, beside the library; here in a few of them."""

from benchmarks import scenes


def test_ours_finds_in_drawn_scenes_what_the_library_does() -> None:
    library, fp32, mixed = scenes.measure(4, ("fp32", "mixed"))
    assert fp32 | {"": "", scenes.BESIDE_FIRST: ""} == library | {"": ""}
    assert (fp32[scenes.BESIDE_FIRST], float(mixed[scenes.BESIDE_FIRST]) > 0.99) == ("1.0000", True)
    assert float(library["f1"]) > 0.8
    assert abs(float(mixed["f1"]) - float(fp32["f1"])) < 0.1
