"""Learns how many images fit into memory at once, by running out of it. Knows numbers only."""

import logging
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

# Batches at the cap before one more image is tried. Running out of memory costs the time of a batch, so this is rare.
GOOD_BATCHES = 32


@dataclass
class Cap:
    """The most images that one stage may take at once."""

    stage: str
    most: int | None = None  # None: it has never run out of memory
    _good: int = 0

    def fell(self, images: int) -> None:
        """Note that so many images did not fit: from now on at most half of them."""
        self.most, self._good = max(1, images // 2), 0
        log.warning("out of memory with %d images in the %s; now at most %d", images, self.stage, self.most)

    def held(self, images: int) -> None:
        """Note that so many images fitted. Now and then allow one more, as another process may have freed memory."""
        if self.most is None or images < self.most:
            return
        self._good += 1
        if self._good >= GOOD_BATCHES:
            self.most, self._good = self.most + 1, 0


@dataclass
class Caps:
    """The caps of a model's stages on its device, kept while the model is loaded."""

    forward: Cap = field(default_factory=lambda: Cap("forward pass"))
    masks: Cap = field(default_factory=lambda: Cap("masks"))
