"""A segmenter that calls its model on the model's stage threads. Knows no stream."""

from collections.abc import Sequence
from functools import partial

from workers.inference.answers import Found
from workers.inference.protocol import ModelFacts, Options, Pixels, Raw, Segmenter
from workers.inference.stream.stage_threads import StageThreads


class OnItsThreads:
    """Implements `protocol.Segmenter` for calls outside of a stream, such as the self-test, which is to test the model
    on the threads that streams use. No stream may use these threads at the same time."""

    def __init__(self, segmenter: Segmenter, threads: StageThreads) -> None:
        self._segmenter, self._threads = segmenter, threads
        self.check_prompts, self.preprocess = segmenter.check_prompts, segmenter.preprocess

    @property
    def facts(self) -> ModelFacts:
        """What is loaded."""
        return self._segmenter.facts

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Raw:
        """Run on the forward thread."""
        return self._threads.forward.call(partial(self._segmenter.predict, batch, prompts, options)).result()

    def postprocess(self, raw: Raw, rows: range, options: Options) -> list[tuple[Found, ...]]:
        """Run on the mask thread."""
        return self._threads.masks.call(partial(self._segmenter.postprocess, raw, rows, options)).result()
