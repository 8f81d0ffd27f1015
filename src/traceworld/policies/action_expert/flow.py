"""The one place where the paper's action flow (eq. 12) becomes ours.

The paper writes the path of an action chunk as a^t = (1 − t)·ε + t·a, noise at t = 0, with the target a − ε. Everything in
this library has noise at τ = 1 and the target noise − data. With τ = 1 − t the path is the same and the velocity its negative.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def paper_time(tau: Float[Tensor, " *batch"]) -> Float[Tensor, " *batch"]:
    """t of eq. 12."""
    return 1 - tau


def noisy_actions(
    actions: Float[Tensor, " B #R K A"], noise: Float[Tensor, "B R K A"], tau: Float[Tensor, "B R"]
) -> Float[Tensor, "B R K A"]:
    """a^t of eq. 12 at t = 1 − τ: τ·ε + (1 − τ)·a."""
    at = tau[..., None, None]
    return at * noise + (1 - at) * actions


def velocity_target(actions: Float[Tensor, " B #R K A"], noise: Float[Tensor, "B R K A"]) -> Float[Tensor, "B R K A"]:
    """dx/dτ = ε − a: the negative of eq. 12's a − ε."""
    return noise - actions
