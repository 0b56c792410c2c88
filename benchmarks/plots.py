"""The two pictures of docs/performance.md, from figures that are measured elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.device import IMAGE_MS
from benchmarks.enqueue import Growth
from benchmarks.pipeline import Row

SYSTEMS = ("plain script", "DataLoader", "Ray Data", "ours")  # as in benchmarks.pipeline, worst known first
COLOURS = ("#c9c9c9", "#9db4c8", "#5f88a8", "#0b4f7a")


def shares(rows: Sequence[Row], path: Path) -> None:
    """How much of the simulated device's time each system uses, by kind of image."""
    grid = [row for row in rows if row.image_ms == IMAGE_MS]
    kinds = list(dict.fromkeys(row.kind for row in grid))
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    width = 0.8 / len(SYSTEMS)
    for number, (system, colour) in enumerate(zip(SYSTEMS, COLOURS, strict=True)):
        share = {row.kind: row.of_limit for row in grid if row.system == system}
        places = [place + (number - (len(SYSTEMS) - 1) / 2) * width for place in range(len(kinds))]
        drawn = axes.bar(places, [share.get(kind, 0.0) for kind in kinds], width, label=system, color=colour)
        for label in axes.bar_label(drawn, fmt="%.2f", fontsize=7, padding=2):
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # over the line of the limit
    axes.axhline(1.0, color="black", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("share of the limit")
    axes.set_ylim(0, 1.15)
    axes.set_title(f"Simulated accelerator, 25 + {IMAGE_MS:g} ms an image: share of its time that is used", fontsize=10)
    axes.legend(ncols=len(SYSTEMS), frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    _save(figure, path)


def growth(measured: Sequence[Growth], path: Path) -> None:
    """Seconds of an enqueue and of the bare load, by the number of rows."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for database, colour in (("sqlite", COLOURS[3]), ("postgresql", "#b5651d")):
        of_one = [one for one in measured if one.database == database]
        rows = [one.rows for one in of_one]
        axes.loglog(rows, [one.rows / one.rows_per_second for one in of_one], "o-", color=colour, label=database)
        bare = [one.rows / one.bare_rows_per_second for one in of_one]
        axes.loglog(rows, bare, "o--", color=colour, alpha=0.5, label=f"{database}, bare load")
    axes.set_xlabel("rows")
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.3)
    axes.set_title("Rows into the database", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
