"""The two parts of a forward pass, vision encoder and heads: as the library runs them, or compiled. Knows no prompts.

torch's compiler makes kernels for fixed shapes, which takes a minute or more. So they are made for batches of one size,
which smaller batches are filled up to. They read and write less memory, as one kernel does the work of several.
"""

import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any, Protocol, cast

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from workers.errors import first_line
from workers.inference.kept_kernels import alone
from workers.inference.no_memory import is_short

log = logging.getLogger(__name__)

Levels = tuple[torch.Tensor, ...]  # one tensor for each level of the vision features
Boxes = tuple[torch.Tensor, torch.Tensor]  # as `sam3_boxes.boxes_of` gives them


class Parts(Protocol):
    """How the two parts are run."""

    def see(self, pixels: torch.Tensor) -> Levels:
        """Vision features, each level (rows, width, h, w), of (rows, 3, height, width)."""

    def find(self, features: Levels, text: torch.Tensor, mask: torch.Tensor | None) -> Any:
        """Numbers (rows, 1 + 5 queries), which are presence, scores and boxes, and masks (rows, queries, h, w), for
        text features (rows, tokens, width), with a mask that is true for tokens and false for their padding."""


class Plain:
    """Both parts as they are. Implements `Parts`."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def see(self, pixels: torch.Tensor) -> Levels:
        return see(self.model, pixels)

    def find(self, features: Levels, text: torch.Tensor, mask: torch.Tensor | None, boxes: Boxes | None = None) -> Any:
        """As `Parts.find`. With `boxes` each row has at least one: SAM3 adds a token to all rows of such a run, which
        changes the answer of a row that has none."""
        return find(self.model, features, text, mask, boxes)


class Compiled:
    """Both parts, compiled for batches of one size, which is that of the first one. Implements `Parts`.

    If compiling fails, `works` becomes false, that is logged once, and the parts run as they are.
    """

    def __init__(self, plain: Plain, name: str, backend: str | Callable[..., Any] = "inductor") -> None:
        """`name` is different for two models, devices or precisions that need different kernels."""
        self.works = True
        self._size: int | None = None
        self._name = f"{name}-torch-{torch.__version__}"
        self._model = plain.model
        self._backend = backend
        self._compiled: dict[str, Callable[..., Any]] = {}  # the parts that are compiled already, by name

    def size_for(self, images: int) -> int | None:
        """The number of images that such a batch is to be filled up to. None: run it without compiled kernels."""
        if self._size is None:
            self._size = images
        return self._size if self.works and images <= self._size else None

    def ran_out(self, images: int) -> None:
        """Note that a batch with so many images needed too much memory. The next size is that of the next batch. If one
        image alone needed too much, compiling has failed: without it there may be room."""
        if images == self._size:
            self._size = None
            self._compiled.clear()
            if images == 1:
                self._fails("there is no memory for it, even for one image")

    def _fails(self, reason: str) -> None:
        self.works = False
        log.warning("the model cannot be compiled, so it runs as it is: %s", reason)

    def see(self, pixels: torch.Tensor) -> Levels:
        return cast(Levels, self._run(see, pixels))

    def find(self, features: Levels, text: torch.Tensor, mask: torch.Tensor | None) -> Any:
        return self._run(find, features, text, mask)

    def _run(self, part: Callable[..., Any], *given: Any) -> Any:
        name = part.__name__
        if name in self._compiled:
            return self._compiled[name](self._model, *given)
        if self.works:
            # No CUDA graphs: docs/forward-pass.md says why.
            compiled = torch.compile(
                _copy(cast(FunctionType, part)), fullgraph=True, dynamic=False, backend=self._backend
            )
            try:
                with alone(f"{self._name}-{self._size}-{name}"):
                    answer = compiled(self._model, *given)  # this compiles it
            except Exception as error:
                if is_short(error, self._size or 1):
                    raise
                self._fails(_cause(error))
            else:
                self._compiled[name] = compiled
                return answer
        return part(self._model, *given)


def see(model: Any, pixels: torch.Tensor) -> Levels:
    """As `Parts.see`, of a SAM3, whose heads do not read the last level."""
    return tuple(model.get_vision_features(pixels).fpn_hidden_states[:-1])


def find(
    model: Any, features: Levels, text: torch.Tensor, mask: torch.Tensor | None, boxes: Boxes | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `Parts.find`, of a SAM3."""
    last = features[-1]
    positions = model.vision_encoder.neck.position_encoding(last.shape, last.device, last.dtype)
    output = model(
        # The library leaves the last level out, and reads the positions of the one before it.
        vision_embeds=Sam3VisionEncoderOutput(
            fpn_hidden_states=(*features, last), fpn_position_encoding=(positions, positions)
        ),
        text_embeds=BaseModelOutputWithPooling(pooler_output=text),  # forward() reads this, though it says tensor
        attention_mask=mask,
        input_boxes=None if boxes is None else boxes[0].to(last.dtype),
        input_boxes_labels=None if boxes is None else boxes[1],
    )
    presence = output.presence_logits.float().sigmoid()  # (rows, 1)
    scores = output.pred_logits.float().sigmoid() * presence  # (rows, queries)
    return torch.cat((presence, scores, output.pred_boxes.float().flatten(1)), dim=1), output.pred_masks


def _copy(function: FunctionType) -> FunctionType:
    """The function with code of its own. torch keeps what it compiles with the code of a function, at most eight times,
    and for as long as that exists: so each model has its own, which leaves the memory with it."""
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, function.__name__, function.__defaults__)


def _cause(error: Exception) -> str:
    """What went wrong in the compiler, in one line. torch wraps it into an error that names the backend first."""
    inner = getattr(error, "inner_exception", error)
    return f"{type(inner).__name__}: {first_line(inner)}"
