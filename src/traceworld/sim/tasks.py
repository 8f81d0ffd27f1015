"""The 50 Meta-World tasks: what each one is called in words, and which five no model is trained on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from traceworld.errors import ConfigError

INSTRUCTIONS: dict[str, str] = {
    "assembly-v3": "pick up the round nut and put it over the peg",
    "basketball-v3": "drop the basketball into the hoop",
    "bin-picking-v3": "move the cube from one bin to the other",
    "box-close-v3": "put the lid on the box",
    "button-press-topdown-v3": "press the button from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button from above",
    "button-press-v3": "press the button",
    "button-press-wall-v3": "reach around the wall and press the button",
    "coffee-button-v3": "push the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "lift the round nut off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "turn the faucet off",
    "faucet-open-v3": "turn the faucet on",
    "hammer-v3": "hammer the nail into the box",
    "hand-insert-v3": "put the block into the hole in the table",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "insert the peg into the hole from the side",
    "peg-unplug-side-v3": "unplug the peg sideways",
    "pick-out-of-hole-v3": "pick the block out of the hole",
    "pick-place-v3": "pick up the puck and carry it to the goal",
    "pick-place-wall-v3": "pick up the block and carry it over the wall to the goal",
    "plate-slide-back-side-v3": "slide the plate out of the cabinet sideways",
    "plate-slide-back-v3": "slide the plate back out of the cabinet",
    "plate-slide-side-v3": "slide the plate sideways into the cabinet",
    "plate-slide-v3": "slide the plate forward into the cabinet",
    "push-back-v3": "pull the block back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the block around the wall to the goal",
    "reach-v3": "move the gripper to the goal",
    "reach-wall-v3": "move the gripper over the wall to the goal",
    "shelf-place-v3": "put the block on the shelf",
    "soccer-v3": "push the ball into the soccer goal",
    "stick-pull-v3": "pull the container with the stick",
    "stick-push-v3": "push the container with the stick",
    "sweep-into-v3": "sweep the block into the hole",
    "sweep-v3": "sweep the block off the table",
    "window-close-v3": "close the window",
    "window-open-v3": "open the window",
}
"""One sentence for each task, hand written after watching its expert."""

TASKS: tuple[str, ...] = tuple(sorted(INSTRUCTIONS))

HELD_OUT: tuple[str, ...] = (
    "coffee-pull-v3",
    "door-close-v3",
    "handle-press-side-v3",
    "plate-slide-back-v3",
    "reach-wall-v3",
)
"""Tasks that no shipped model is trained on. They differ in what moves (a grasped mug, a hinge, a sliding handle, a pushed
plate, the gripper alone), and each has a relative among the trained tasks with the same object but another motion
(coffee-push, door-open, handle-press, plate-slide-back-side, reach): what is new is the motion asked for in words, not
the look of the scene."""

TRAINED: tuple[str, ...] = tuple(task for task in TASKS if task not in HELD_OUT)


def check_task(task: str) -> str:
    """`task` itself, or with its version left out (`drawer-open`).

    Raises:
        ConfigError: no such task; the message gives the nearest name.
    """
    for name in (task, f"{task}-v3"):
        if name in INSTRUCTIONS:
            return name
    near = difflib.get_close_matches(task, TASKS, n=1, cutoff=0.0)[0]
    raise ConfigError(f"there is no Meta-World task '{task}'", where="task", mend=f"did you mean '{near}'?")


def instruction_of(task: str) -> str:
    """What the task asks for, in words."""
    return INSTRUCTIONS[check_task(task)]


GROUPS = {"all": TASKS, "trained": TRAINED, "held-out": HELD_OUT}
"""Names that stand for several tasks."""


def resolve_tasks(names: Iterable[str]) -> tuple[str, ...]:
    """Tasks by name or by the name of a group (`all`, `trained`, `held-out`), each once, in the order given.

    Raises:
        ConfigError: no such task.
    """
    found = [task for name in names for task in GROUPS.get(name, (name,))]
    return tuple(dict.fromkeys(check_task(task) for task in found))
