"""Says what a run costs: hours of workers, each with one GPU, and money if an hour has a price. Knows no SQL."""

from dataclasses import dataclass
from typing import Any

from db.views.cost import Cost


@dataclass(frozen=True)
class Bill:
    """The cost of a run with the price of an hour of one GPU, if there is one, in whatever currency that is."""

    cost: Cost
    price: float | None = None

    def as_json(self) -> dict[str, Any]:
        left = self.cost.left
        return {
            "seconds_per_image": self.cost.seconds_per_image,
            "worker_hours": hours(self.cost.spent),
            "worker_hours_left": None if left is None else hours(left),
            "price": self._money(self.cost.spent),
            "price_left": None if left is None else self._money(left),
        }

    def _money(self, seconds: float) -> float | None:
        return None if self.price is None else hours(seconds) * self.price

    def told(self) -> str:
        """For people, such as `0.42 worker hours (0.84), about 7.9 (15.80) to go`; empty if nothing was spent yet."""
        if not self.cost.spent:
            return ""
        spent = f"{told_hours(self.cost.spent)} worker hours{self._told_money(self.cost.spent)}"
        if not self.cost.left:
            return spent
        return f"{spent}, about {told_hours(self.cost.left)}{self._told_money(self.cost.left)} to go"

    def _told_money(self, seconds: float) -> str:
        money = self._money(seconds)
        return "" if money is None else f" ({money:,.2f})"


def hours(seconds: float) -> float:
    return seconds / 3600


def told_hours(seconds: float) -> str:
    """Hours with at least two significant digits, never in the form 1.3e-05. Less than a second gets six decimals."""
    if seconds < 1:
        return f"{hours(seconds):.6f}"
    return f"{hours(seconds):,.1f}" if hours(seconds) >= 10 else f"{hours(seconds):.2g}"
