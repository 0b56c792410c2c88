"""The text features of prompts. Each is computed once. Knows no images."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from workers.inference.models.torch_copies import to_device

CACHED = 1024  # prompts, 32 kB each
CAUSAL = {"clip_text_model": True, "sam3_lite_text_text_model": False}  # whether a token sees only earlier tokens
PADDED = 32  # tokens; the library's processor pads every prompt to this length, and a small text encoder sees them
TOGETHER = 64  # most prompts in one run of the text encoder, so that it fits into memory


class Texts:
    """The features of the prompts that were used last. Only one thread may use an object."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.most_tokens = PADDED
        self._model, self._tokenizer = model, tokenizer
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __getitem__(self, prompt: str) -> torch.Tensor:
        """The features of a prompt, of shape (tokens, width). The prompt must be one of those learned last."""
        return self._known[prompt]

    def tokens(self, prompt: str) -> int:
        """How many tokens the prompt has; the model takes at most `most_tokens`."""
        return len(self._tokenizer(prompt, verbose=False).input_ids)

    def learn(self, prompts: Iterable[str]) -> None:
        """Compute the features of new prompts, many in one run, and keep those of all `prompts`."""
        asked = list(dict.fromkeys(prompts))
        new = [prompt for prompt in asked if prompt not in self._known]
        for start in range(0, len(new), TOGETHER):
            part = new[start : start + TOGETHER]
            self._known.update(zip(part, self._encoded(part), strict=True))
        for prompt in asked:
            self._known.move_to_end(prompt)
        while len(self._known) > max(CACHED, len(asked)):
            self._known.popitem(last=False)

    def _encoded(self, prompts: Sequence[str]) -> Iterator[torch.Tensor]:
        """Pad the prompts as the library's processor does, run the text encoder, and cut the padding off again."""
        padded = self._tokenizer(list(prompts), padding="max_length", max_length=self.most_tokens, return_tensors="pt")
        given = padded.input_ids, self._mask(padded.attention_mask)
        ids, mask = (to_device(one, self._model.device) for one in given)
        features = self._model.get_text_features(ids, attention_mask=mask).pooler_output
        for row, length in zip(features, padded.attention_mask.sum(1).tolist(), strict=True):
            yield row[:length].clone()

    def _mask(self, padding: torch.Tensor) -> torch.Tensor:
        """The attention mask (rows, heads, tokens, tokens) for a mask of padding (rows, tokens).

        The text encoder would make the same, but would wait for the device to know whether there is any padding. For
        an encoder that we do not know, the mask of padding is returned.
        """
        kind = self._model.config.text_config.model_type
        if kind not in CAUSAL:
            return padding
        mask = padding.bool()[:, None, None, :].expand(-1, 1, padding.shape[1], -1)
        return mask.tril() if CAUSAL[kind] else mask.contiguous()
