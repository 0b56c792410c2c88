"""How many images fit into memory at once, learnt by running out of it. Knows numbers only."""

import logging
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

GOOD_BATCHES = 32  # at the cap, before one image more is tried: running out costs a batch's time, so rarely


@dataclass
class Cap:
    """The most images of one stage. None: it has not run out yet."""

    stage: str
    most: int | None = None
    _good: int = 0

    def fell(self, images: int) -> None:
        """So many were too many: from now on half of them."""
        self.most, self._good = max(1, images // 2), 0
        log.warning("out of memory with %d images in the %s; now at most %d", images, self.stage, self.most)

    def held(self, images: int) -> None:
        """So many fitted. Others may have left the memory that they took: now and then one more is tried."""
        if self.most is None or images < self.most:
            return
        self._good += 1
        if self._good >= GOOD_BATCHES:
            self.most, self._good = self.most + 1, 0


@dataclass
class Caps:
    """What a model fits on its device, kept while it is loaded."""

    forward: Cap = field(default_factory=lambda: Cap("forward pass"))
    masks: Cap = field(default_factory=lambda: Cap("masks"))
