"""What a machine needs that has torch, torchvision and transformers and no network: our other dependencies."""

from collections.abc import Iterator
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "sam3-queue"
EXTRAS = ("worker", "local")
BESIDE = ("scikit-image", "nvidia-ml-py")  # photographs, and what asks the driver
THERE = ("torch", "torchvision", "transformers")


def listed() -> str:
    """One line a package with its size as it is installed here, and the command that fetches them all."""
    there = {canonicalize_name(one.name) for name in THERE for one in closure(name)}
    ours = [one for name in (OURS, *BESIDE) for one in closure(name, EXTRAS if name == OURS else ())]
    wanted = {one.name: one for one in ours if canonicalize_name(one.name) not in there | {OURS}}
    sizes = {name: _megabytes(one) for name, one in wanted.items()}
    lines = [
        f"{sizes[name]:7.1f} MB  {name}=={one.version}"
        for name, one in sorted(wanted.items(), key=lambda item: item[0].lower())
    ]
    names = " ".join(f"{name}=={one.version}" for name, one in sorted(wanted.items()))
    return "\n".join(
        [
            *lines,
            f"{sum(sizes.values()):7.1f} MB  installed, beside {', '.join(THERE)} and what these need",
            "",
            f"pip download --no-deps --dest wheels {names}",
        ]
    )


def closure(name: str, extras: tuple[str, ...] = ()) -> list[Distribution]:
    """The package and all that it needs, as far as it is installed here."""
    found: dict[str, Distribution] = {}
    todo = [(name, extras)]
    while todo:
        one, its_extras = todo.pop()
        try:
            there = distribution(one)
        except ModuleNotFoundError:  # a requirement of another platform
            continue
        if canonicalize_name(one) in found and not its_extras:
            continue
        found[canonicalize_name(one)] = there
        todo += _needs(there, its_extras)
    return list(found.values())


def _needs(package: Distribution, extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in package.requires or []:
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield needed.name, tuple(sorted(needed.extras))


def _megabytes(package: Distribution) -> float:
    files = package.files or []
    return sum(file.size or 0 for file in files) / 1e6
