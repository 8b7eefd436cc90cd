"""How `select` compares options, from the log-probabilities of their tokens.

====================================  ======================================================
sequence_probability (the default)    log P(option | text): the sum over its tokens
token_length_normalized               the mean over its tokens; favours long, predictable options
greedy_token_selection                token by token, as a greedy decoder held to the options
unconditional_likelihood_normalized   the mean of how much likelier the text makes each token
====================================  ======================================================

The last three bear the names that SGLang's frontend gives them, and may be called as there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Logprobs = Sequence[Sequence[float]]
"""Per option, the log-probability of each of its tokens."""


@dataclass(frozen=True)
class ChoicesDecision:
    """What a method decided.

    Args:
        decision: the option.
        meta_info: what it compared.
    """

    decision: str
    meta_info: dict[str, Any]


class ChoicesMethod(ABC):
    """A way to compare options.

    Attributes:
        name: by which `select` knows it.
        needs_unconditional: whether it wants options scored without the text before them, too.
        is_ranking: scores only order the options; they are no log-probabilities to draw from.
    """

    name: str
    needs_unconditional = False
    is_ranking = False

    @abstractmethod
    def scores(self, logprobs: Logprobs, unconditional: Logprobs | None) -> list[float]:
        """A score per option; the highest wins, the first of equal ones."""

    def meta_info(self, logprobs: Logprobs, scores: Sequence[float]) -> dict[str, Any]:
        """What was compared, under the peer's names."""
        return {"normalized_prompt_logprobs": list(scores)}

    def __call__(
        self,
        *,
        choices: Sequence[str],
        normalized_prompt_logprobs: Sequence[float],
        input_token_logprobs: Sequence[Sequence[Any]],
        output_token_logprobs: Sequence[Sequence[Any]],
        unconditional_token_logprobs: Sequence[Sequence[Any]] | None = None,
    ) -> ChoicesDecision:
        """Decide from what an SGLang server reports: (log-probability, id, text) per token.

        Args:
            normalized_prompt_logprobs, output_token_logprobs: not needed; as the peer calls it.

        Raises:
            ValueError: log-probabilities without context are needed, and there are none.
        """
        if self.needs_unconditional and unconditional_token_logprobs is None:
            raise ValueError(f"{self.name} needs unconditional_token_logprobs")
        logprobs = [_values(tokens) for tokens in input_token_logprobs]
        alone = [_values(tokens) for tokens in unconditional_token_logprobs or ()]
        scores = self.scores(logprobs, alone or None)
        best = max(range(len(choices)), key=scores.__getitem__)
        return ChoicesDecision(choices[best], self.meta_info(logprobs, scores))

    def __repr__(self) -> str:
        return self.name


def _values(tokens: Sequence[Any]) -> list[float]:
    """Log-probabilities; 0 for a first token, which nothing stands before."""
    return [0.0 if token[0] is None else float(token[0]) for token in tokens]


class _SequenceProbability(ChoicesMethod):
    """The log-probability of the whole option."""

    name = "sequence_probability"

    def scores(self, logprobs: Logprobs, unconditional: Logprobs | None) -> list[float]:
        return [math.fsum(values) for values in logprobs]


class _TokenLengthNormalized(ChoicesMethod):
    """The mean log-probability of the option's tokens."""

    name = "token_length_normalized"

    def scores(self, logprobs: Logprobs, unconditional: Logprobs | None) -> list[float]:
        return [mean(values) for values in logprobs]


class _GreedyTokenSelection(ChoicesMethod):
    """The option whose first token is likeliest; among equal ones, whose second is; and so on.

    An option that has ended goes on with the mean of its tokens.
    """

    name = "greedy_token_selection"
    is_ranking = True

    def scores(self, logprobs: Logprobs, unconditional: Logprobs | None) -> list[float]:
        matrix = padded(logprobs)
        left = list(range(len(matrix)))
        for column in range(len(matrix[0])):
            best = max(matrix[i][column] for i in left)
            left = [i for i in left if matrix[i][column] == best]
        return [0.0 if i == left[0] else -math.inf for i in range(len(matrix))]

    def meta_info(self, logprobs: Logprobs, scores: Sequence[float]) -> dict[str, Any]:
        return {
            "normalized_prompt_logprobs": [mean(values) for values in logprobs],
            "greedy_logprob_matrix": padded(logprobs),
        }


class _UnconditionalLikelihoodNormalized(ChoicesMethod):
    """The mean, over the option's tokens, of log P(token | text) - log P(token | nothing).

    Source: "unconditional likelihood normalization", Brown et al. 2020, section 2.4.
    """

    name = "unconditional_likelihood_normalized"
    needs_unconditional = True

    def scores(self, logprobs: Logprobs, unconditional: Logprobs | None) -> list[float]:
        assert unconditional is not None
        return [
            mean([a - b for a, b in zip(values, alone, strict=True)])
            for values, alone in zip(logprobs, unconditional, strict=True)
        ]

    def meta_info(self, logprobs: Logprobs, scores: Sequence[float]) -> dict[str, Any]:
        return {
            "normalized_prompt_logprobs": [mean(values) for values in logprobs],
            "normalized_unconditional_prompt_logprobs": list(scores),
        }


def mean(values: Sequence[float]) -> float:
    """The mean; zeros count."""
    return math.fsum(values) / len(values)


def padded(logprobs: Logprobs) -> list[list[float]]:
    """Rows of one length: short ones go on with their mean."""
    longest = max(map(len, logprobs))
    return [[*values, *[mean(values)] * (longest - len(values))] for values in logprobs]


sequence_probability = _SequenceProbability()
token_length_normalized = _TokenLengthNormalized()
greedy_token_selection = _GreedyTokenSelection()
unconditional_likelihood_normalized = _UnconditionalLikelihoodNormalized()

METHODS: dict[str, ChoicesMethod] = {
    method.name: method
    for method in (
        sequence_probability,
        token_length_normalized,
        greedy_token_selection,
        unconditional_likelihood_normalized,
    )
}
