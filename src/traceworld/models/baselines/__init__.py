"""Predictors without parameters: what a trained model has to beat."""

from traceworld.models.baselines.motionless import NothingMoves
from traceworld.models.baselines.velocity import ConstantVelocity

__all__ = ["BASELINES", "ConstantVelocity", "NothingMoves"]

BASELINES = {
    "nothing-moves": NothingMoves,
    "constant-velocity": ConstantVelocity,
    "damped-velocity": lambda horizon=32: ConstantVelocity(damping=0.85, horizon=horizon),
}
"""Name → maker of the predictor. Call it with a horizon other than 32 if needed."""
