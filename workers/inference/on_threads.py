"""A segmenter whose model is called on its stage threads, whoever asks. Knows no stream."""

from collections.abc import Sequence
from functools import partial

from workers.inference.answers import Found
from workers.inference.pipeline import ModelFacts, Options, Pixels, Raw, Segmenter
from workers.inference.stage_threads import StageThreads


class OnItsThreads:
    """Implements `pipeline.Segmenter`. For what calls a model outside of a stream, such as its self-test, which is to
    prove the threads that streams use. They may be in none meanwhile."""

    def __init__(self, segmenter: Segmenter, threads: StageThreads) -> None:
        self._segmenter, self._threads = segmenter, threads
        self.check_prompts, self.preprocess = segmenter.check_prompts, segmenter.preprocess

    @property
    def facts(self) -> ModelFacts:
        """What is loaded."""
        return self._segmenter.facts

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Raw:
        """On the forward thread."""
        return self._threads.forward.call(partial(self._segmenter.predict, batch, prompts, options)).result()

    def postprocess(self, raw: Raw, rows: range, options: Options) -> list[tuple[Found, ...]]:
        """On the mask thread."""
        return self._threads.masks.call(partial(self._segmenter.postprocess, raw, rows, options)).result()
