"""Named sets of tasks, as benchmarks publish them, and how an environment is made from its address.

An address is `SIMULATOR:TASK`, e.g. `metaworld:drawer-open`, `robocasa:CloseFridge`, `robotwin:beat_block_hammer`. Meta-World
comes with the extra `sim`; the other two need assets that their own installers fetch, and say so when they are missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from traceworld.errors import ConfigError
from traceworld.sim.control import ControlEnv, MetaworldEnv, test_seed
from traceworld.sim.tasks import TASKS, check_task

SIMULATORS = ("metaworld", "robocasa", "robotwin")

MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
"""Meta-World's MT10."""

DIFFICULTY: dict[str, tuple[str, ...]] = {
    "medium": (
        "basketball-v3",
        "bin-picking-v3",
        "box-close-v3",
        "coffee-pull-v3",
        "coffee-push-v3",
        "hammer-v3",
        "peg-insert-side-v3",
        "push-wall-v3",
        "soccer-v3",
        "sweep-into-v3",
        "sweep-v3",
    ),
    "hard": ("assembly-v3", "hand-insert-v3", "pick-out-of-hole-v3", "pick-place-v3", "push-back-v3", "push-v3"),
    "very-hard": ("disassemble-v3", "pick-place-wall-v3", "shelf-place-v3", "stick-pull-v3", "stick-push-v3"),
}
DIFFICULTY = {
    "easy": tuple(task for task in TASKS if not any(task in group for group in DIFFICULTY.values()))
} | DIFFICULTY
"""The groups by which MT50 results are published: 28 easy, 11 medium, 6 hard, 5 very hard tasks."""

GROUP_OF_TASK = {task: group for group, tasks in DIFFICULTY.items() for task in tasks}

ATOMIC8 = (
    "CloseFridge",
    "OpenFridge",
    "CoffeeServeMug",
    "PickPlaceFridgeShelfToDrawer",
    "TurnOnMicrowave",
    "SlideToasterOvenRack",
    "PickPlaceCounterToCabinet",
    "TurnOnToasterOven",
)
"""The eight RoboCasa365 tasks of the paper (mu0-paper D.3)."""

_OPENED = (
    *("BlenderLid", "Cabinet", "Dishwasher", "Drawer", "ElectricKettleLid", "Fridge"),
    *("FridgeDrawer", "Microwave", "Oven", "StandMixerHead", "ToasterOvenDoor"),
)
_FROM_COUNTER = ("Blender", "Cabinet", "Drawer", "Microwave", "Oven", "Sink", "StandMixer", "Stove", "ToasterOven")
_TO_COUNTER = ("Cabinet", "Drawer", "Microwave", "Sink", "Stove", "ToasterOven", "Toaster")
ATOMIC65 = (
    "AdjustToasterOvenTemperature",
    "AdjustWaterTemperature",
    "CheesyBread",
    *(f"Close{thing}" for thing in _OPENED),
    "CoffeeServeMug",
    "CoffeeSetupMug",
    "LowerHeat",
    "MakeIcedCoffee",
    "NavigateKitchen",
    *(f"Open{thing}" for thing in _OPENED),
    "PackDessert",
    *(f"PickPlaceCounterTo{place}" for place in _FROM_COUNTER),
    *(f"PickPlace{place}ToCounter" for place in _TO_COUNTER),
    "PickPlaceFridgeDrawerToShelf",
    "PickPlaceFridgeShelfToDrawer",
    "PreheatOven",
    *(f"Slide{thing}Rack" for thing in ("Dishwasher", "Oven", "ToasterOven")),
    "StartCoffeeMachine",
    *(f"TurnOff{thing}" for thing in ("Microwave", "SinkFaucet", "Stove")),
    *(
        f"TurnOn{thing}"
        for thing in ("Blender", "ElectricKettle", "Microwave", "SinkFaucet", "Stove", "Toaster", "ToasterOven")
    ),
    "TurnSinkSpout",
)
"""All atomic RoboCasa365 tasks of the released recipe `atomic65`."""


@dataclass(frozen=True)
class Suite:
    """Tasks that are reported together.

    Attributes:
        name: how it is asked for.
        envs: addresses.
        episodes: per task, as published.
        execute: how many actions of a chunk are played, as published; None leaves it to the policy's chunk.
        group_of: address → group in which results are published.
    """

    name: str
    envs: tuple[str, ...]
    episodes: int = 20
    execute: int | None = None
    group_of: Mapping[str, str] = field(default_factory=dict)


def _metaworld(name: str, tasks: tuple[str, ...]) -> Suite:
    envs = tuple(f"metaworld:{task}" for task in tasks)
    return Suite(name, envs, group_of={f"metaworld:{task}": GROUP_OF_TASK[task] for task in tasks})


def _robocasa(name: str, tasks: tuple[str, ...]) -> Suite:
    return Suite(name, tuple(f"robocasa:{task}" for task in tasks), episodes=50, execute=8)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        _metaworld("mt10", MT10),
        _metaworld("mt50", TASKS),
        *(_metaworld(f"mt50-{group}", tasks) for group, tasks in DIFFICULTY.items()),
        _robocasa("atomic8", ATOMIC8),
        _robocasa("atomic65", ATOMIC65),
    )
}


def find_suite(name: str) -> Suite:
    """A suite by name (`SUITES`), or of the tasks in an address: `metaworld:drawer-open,reach` or `robocasa:CloseFridge`.

    Raises:
        ConfigError: no such suite, simulator or Meta-World task.
    """
    if name in SUITES:
        return SUITES[name]
    simulator, colon, tasks = name.partition(":")
    if colon and simulator in SIMULATORS and tasks:
        names = tuple(dict.fromkeys(task.strip() for task in tasks.split(",") if task.strip()))
        if simulator == "metaworld":
            return _metaworld(name, tuple(dict.fromkeys(check_task(task) for task in names)))
        if simulator == "robocasa":
            return _robocasa(name, names)
        return Suite(name, tuple(f"{simulator}:{task}" for task in names), episodes=100)
    near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0.5)
    known = f"{', '.join(SUITES)}, or SIMULATOR:TASK with a simulator of {', '.join(SIMULATORS)}"
    raise ConfigError(
        f"no suite or task is called '{name}'",
        where="env",
        mend=f"did you mean '{near[0]}'?" if near else f"give one of {known}",
    )


def metaworld_tasks(names: Iterable[str]) -> tuple[str, ...]:
    """The Meta-World tasks of suites and task names, each once, in the order given.

    Raises:
        ConfigError: no such suite or task, or one of another simulator.
    """
    found: list[str] = []
    for name in names:
        addresses = SUITES[name].envs if name in SUITES else (f"metaworld:{check_task(name)}",)
        if other := [address for address in addresses if not address.startswith("metaworld:")]:
            raise ConfigError(f"'{other[0]}' has no scripted expert", where=name, mend="give tasks of Meta-World")
        found += [address.partition(":")[2] for address in addresses]
    return tuple(dict.fromkeys(found))


def make_env(address: str, **options: Any) -> ControlEnv:
    """The environment at an address.

    Args:
        options: of `MetaworldEnv`, `RoboCasaEnv` or `RoboTwinEnv`; without them each has the cameras, the picture size and
            the step limit of its own benchmark.

    Raises:
        ConfigError: no such simulator or task, or an option that it does not have.
        MissingExtraError: the simulator is not installed; says what to install and which assets to fetch.
    """
    simulator, _, task = address.partition(":")
    if simulator == "metaworld":
        return MetaworldEnv(task, **options)
    if simulator == "robocasa":
        from traceworld.sim.control_robocasa import RoboCasaEnv

        return RoboCasaEnv(task, **options)
    if simulator == "robotwin":
        from traceworld.sim.control_robotwin import RoboTwinEnv

        return RoboTwinEnv(task, **options)
    raise ConfigError(f"no simulator '{simulator}'", where="env", mend=f"one of {', '.join(SIMULATORS)}")


def episode_seed(address: str, run: int, episode: int) -> int:
    """The seed of a test episode. Meta-World: no training seed is equal to it. RoboTwin: as its own evaluation counts
    (from 100,000 × (1 + run)). RoboCasa: run × 100,000 + episode; which kitchens are unseen is decided by its `split`."""
    simulator = address.partition(":")[0]
    if simulator == "metaworld":
        return test_seed(run, episode)
    return 100_000 * (run + (simulator == "robotwin")) + episode
