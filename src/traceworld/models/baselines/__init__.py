"""Predictors without parameters: what a trained model has to beat."""

from traceworld.models.baselines.motionless import NothingMoves
from traceworld.models.baselines.nearest import NearestExample
from traceworld.models.baselines.velocity import ConstantVelocity, DampedVelocity

__all__ = ["BASELINES", "ConstantVelocity", "DampedVelocity", "NearestExample", "NothingMoves"]

BASELINES = {
    "nothing-moves": NothingMoves,
    "constant-velocity": ConstantVelocity,
    "damped-velocity": DampedVelocity,
}
"""Name → class; call it without arguments for a horizon of 32 steps. `NearestExample` needs a corpus and is not among them."""
