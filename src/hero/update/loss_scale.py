"""Loss scaling for float16, whose smallest number is larger than most of a LoRA's gradients.

The loss is multiplied by a power of two before the backward pass and its gradients are divided by it afterwards, which
is exact but for what would have been rounded to zero. Micikevicius et al., "Mixed Precision Training", section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

__all__ = ["LossScale"]


@dataclass
class LossScale:
    """A power of two that halves when gradients overflow and doubles after `GROWS_AFTER` steps without.

    Attributes:
        value: the present scale.
        steps: optimizer steps since it last changed.
    """

    GROWS_AFTER: ClassVar[int] = 64
    LARGEST: ClassVar[float] = 2.0**24

    value: float = 2.0**16
    steps: int = 0

    def step_taken(self) -> None:
        """Counts an optimizer step."""
        self.steps += 1
        if self.steps == self.GROWS_AFTER:
            self.value, self.steps = min(2 * self.value, self.LARGEST), 0

    def overflowed(self) -> bool:
        """Halves it, so that the step can be tried again; False if it is 1 already, and the fault lies elsewhere."""
        if self.value <= 1:
            return False
        self.value, self.steps = self.value / 2, 0
        return True

    def state_dict(self) -> dict[str, torch.Tensor]:
        """`loss_scale` (2,) fp64: value and steps."""
        return {"loss_scale": torch.tensor([self.value, self.steps], dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`; without an entry it begins anew."""
        value, steps = state.get("loss_scale", torch.tensor([LossScale.value, 0])).tolist()
        self.value, self.steps = value, int(steps)
