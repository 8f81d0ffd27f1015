"""Make the shipped `tracegen-nano`: what `mu0_nano.py` does, for TraceGen, on the same corpus with the same budget.

    python recipes/tracegen_nano.py --out runs/tracegen-nano --corpus runs/mu0-nano --minutes 50
    python recipes/tracegen_nano.py --out runs/tracegen-nano            # simulates its own corpus, the same one

The budget is minutes of training on the same machine: give `--minutes` what μ0 had. TraceGen sees a fixed grid, whose cost does
not depend on the number of keypoints, so it is given all the corpus has of a window (up to 160) where μ0 is given 8 to 40. It is
scored without history, at which it does not look. Planned cost on two cores beside that of the corpus: `--minutes` of training,
10 of scoring.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console
from shipped import Shipped, ShippedRecipe, make

from traceworld.evaluation.forecast import forecast_tables

TRACEGEN_NANO = Shipped(
    name="tracegen-nano",
    kind="tracegen",
    about="A small TraceGen (arXiv 2511.21690) that predicts how a grid of points moves from one picture and an instruction",
    history=(False,),
)


@dataclass(frozen=True)
class Recipe(ShippedRecipe):
    __doc__ = ShippedRecipe.__doc__
    keypoints: tuple[int, int] = (80, 160)


def main(recipe: Recipe) -> dict[str, Any]:
    """Run all stages that are not done yet. Returns the figures of the model card."""
    return make(recipe, TRACEGEN_NANO)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    made = main(tyro.cli(Recipe))
    for report in made["result"].values():
        Console(width=160).print(forecast_tables(report))
