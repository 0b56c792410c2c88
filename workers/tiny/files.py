"""Where the bundled tiny checkpoint is. Knows the folder only, so that code without torch can import it."""

from pathlib import Path

CHECKPOINT = Path(__file__).with_name("checkpoint")
