"""The counter that the LiGO paper's savings come from, so that its tables can be read in our convention.

Wang et al. (ICLR 2023, arXiv 2303.00980) count BERT as ELECTRA's authors do: every operation of every tensor, lookups
as matmuls with one-hot vectors, the output layer on the masked 15.6 % of tokens, backward as much as forward.
While the operator is learned, the released counter charges the building of the weights once for every sequence of
the batch; a step builds them once for every forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

_MASKED_SHARE = 0.15625


@dataclass(frozen=True)
class PublishedCounter:
    """FLOPs of one BERT as the paper counts them."""

    hidden_size: int
    num_layers: int
    ffn_size: int
    num_heads: int
    vocab_size: int = 30522
    sequence_length: int = 128

    def step(self, batch_size: int) -> float:
        """FLOPs of one training step on so many sequences."""
        per_token = self.num_layers * self._layer + self._embedding + _MASKED_SHARE * self._output
        return 2 * batch_size * self.sequence_length * per_token

    def operator_step(self, small: PublishedCounter, batch_size: int, *, builds: int) -> float:
        """FLOPs of one step of learning the operator that grows `small` into this model.

        Args:
            builds: how often a step makes the weights: `batch_size` as released, the number of forward passes in truth.
        """
        return self.step(batch_size) + 2 * builds * self.num_layers * self._build(small)

    @property
    def _layer(self) -> float:
        """Of one token in one layer: matrices, attention, then biases, dropout, residuals, norms and GELU."""
        h, i, s = self.hidden_size, self.ffn_size, self.sequence_length
        return 8 * h * h + 4 * h * i + 4 * h * s + 10 * s * self.num_heads + 20 * h + 9 * i + 5

    @property
    def _embedding(self) -> float:
        h, s = self.hidden_size, self.sequence_length
        return 2 * h * self.vocab_size + 2 * h * (s + 2) + 11 * h

    @property
    def _output(self) -> float:
        h = self.hidden_size
        return 2 * h * self.vocab_size + 2 * h * h + 14 * h + 7 * self.vocab_size

    def _build(self, small: PublishedCounter) -> float:
        """Of the weights of one target layer: mixing the small layers, and the rows that are new in width."""
        h, i, layers = self.hidden_size, self.ffn_size, small.num_layers
        old, new = small.hidden_size, h - small.hidden_size
        mixed = layers * (4 * h * h + 4 * h * i + 10 * h + i)
        matrices = new * (8 * old * old + 4 * old * i + 2 * i * h)
        return mixed + matrices + new * (4 * old + i + 2 * h)


def published_saving(
    main_steps: int, main_step_flops: float, operator_flops: float, scratch_flops: float
) -> float:
    """The paper's saving: what its operator and its main run cost against scratch, the small model not charged."""
    return 1 - (main_steps * main_step_flops + operator_flops) / scratch_flops
