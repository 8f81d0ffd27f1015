"""Make the shipped `mu0-nano`: simulate, train, score, write the model card.

    python recipes/mu0_nano.py --out runs/mu0-nano                      # everything; run it again to go on
    python recipes/mu0_nano.py --out runs/mu0-nano --no-install         # leave the package's weights as they are
    python recipes/mu0_nano.py --out runs/cross --embodiments sawyer bare-gripper hand-like other-arm --variety

The five tasks of `traceworld.sim.tasks.HELD_OUT` are never trained on; test episodes have seeds of their own. Needs no GPU and
no download. Planned cost on two cores: 55 minutes of simulation (0.5 s an episode), `--minutes` of training (0.40 s a step), 5
of scoring.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console
from shipped import Shipped, ShippedRecipe, make

from traceworld.evaluation.forecast import forecast_tables

MU0_NANO = Shipped(
    name="mu0-nano",
    kind="mu0",
    about="A small μ0 (arXiv 2606.13769 §3) that predicts 3D traces from one picture and an instruction",
    history=(False, True),
)


@dataclass(frozen=True)
class Recipe(ShippedRecipe):
    __doc__ = ShippedRecipe.__doc__


def main(recipe: Recipe) -> dict[str, Any]:
    """Run all stages that are not done yet. Returns the figures of the model card."""
    return make(recipe, MU0_NANO)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    made = main(tyro.cli(Recipe))
    for report in made["result"].values():
        Console(width=160).print(forecast_tables(report))
