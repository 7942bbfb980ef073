"""The serial head of DSpark: each position's logits are biased by the token before it.

The bias is low-rank, W2 applied to a code of rank r that the kinds of head make
differently. `codes` knows all tokens, as training does; `serial` gets them one by one, with
everything that does not depend on them computed for the whole block beforehand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from drafters.config import DSparkConfig

Step = Callable[[int, Tensor], Tensor]
"""Code [R, r] of slot k, from k and W1 [R, r] of the token before it. In order of k."""


class MarkovHead(nn.Module):
    """Vanilla: the code is W1 of the token before."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.num_logits, bias=False)

    def codes(self, hidden: Tensor, embeds: Tensor) -> Tensor:
        """Codes [..., slots, r] from `hidden` [..., slots, d] and W1 `embeds` [..., slots, r]."""
        return embeds

    def serial(self, hidden: Tensor) -> Step:
        """The step over the slots of `hidden` [R, slots, d]."""
        return lambda slot, embed: embed


class GatedHead(MarkovHead):
    """The hidden state decides which parts of W1[x] count: sigmoid(G [h; W1[x]]) * W1[x]."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__(config)
        rank = config.markov_rank
        self.gate_proj = nn.Linear(config.hidden_size + rank, rank)

    def codes(self, hidden: Tensor, embeds: Tensor) -> Tensor:
        gates: Tensor = self.gate_proj(torch.cat((hidden, embeds), dim=-1))
        return gates.sigmoid() * embeds

    def serial(self, hidden: Tensor) -> Step:
        of_hidden, of_embed = self.gate_proj.weight.tensor_split((hidden.shape[-1],), dim=1)
        gates = F.linear(hidden, of_hidden, self.gate_proj.bias)  # [R, slots, r]
        by_embed = of_embed.t()

        def step(slot: int, embed: Tensor) -> Tensor:
            return torch.addmm(gates[:, slot], embed, by_embed).sigmoid_() * embed

        return step


class RnnHead(MarkovHead):
    """A recurrent state over the block: [g; c; o] = J [s; W1[x]; h].

    s becomes sigmoid(g) * s + (1 - sigmoid(g)) * tanh(c), and the code is tanh(o).
    """

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__(config)
        rank = config.markov_rank
        self.joint_proj = nn.Linear(2 * rank + config.hidden_size, 3 * rank)

    def codes(self, hidden: Tensor, embeds: Tensor) -> Tensor:
        slots, rank = embeds.shape[-2:]
        step = self.serial(hidden.reshape(-1, slots, hidden.shape[-1]))
        flat = embeds.reshape(-1, slots, rank)
        codes = [step(slot, flat[:, slot]) for slot in range(slots)]
        return torch.stack(codes, dim=1).view(embeds.shape)

    def serial(self, hidden: Tensor) -> Step:
        rank = self.markov_w2.in_features
        of_serial, of_hidden = self.joint_proj.weight.tensor_split((2 * rank,), dim=1)
        joint = F.linear(hidden, of_hidden, self.joint_proj.bias)  # [R, slots, 3 r]
        by_serial = of_serial.t()
        state = joint.new_zeros(hidden.shape[0], rank)  # of the type that products have

        def step(slot: int, embed: Tensor) -> Tensor:
            nonlocal state
            inputs = torch.cat((state, embed), dim=-1)
            gate, candidate, output = torch.addmm(joint[:, slot], inputs, by_serial).chunk(3, -1)
            state = torch.lerp(candidate.tanh(), state, gate.sigmoid())
            return output.tanh()

        return step


_HEADS = {"vanilla": MarkovHead, "gated": GatedHead, "rnn": RnnHead}


def markov_head(config: DSparkConfig) -> MarkovHead | None:
    """The head a config asks for; None at rank 0."""
    return _HEADS[config.markov_head_type](config) if config.markov_rank else None
