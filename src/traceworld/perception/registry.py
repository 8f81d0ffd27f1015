"""Backends by name: the embedded ones and those that other packages register under the entry-point group `traceworld.backends`.

A backend is looked up without importing it; it is imported when made. `check` says whether it can be made here, and if
not, why and which command mends that; `available` says so of all.

Extraction chooses only captions by name (`CHOSEN_BY_NAME`). Its features, tracking and odometry are the embedded ones,
called directly; the other kinds stand here for use from Python and for backends to come.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from traceworld.errors import ConfigError, TraceworldError

log = logging.getLogger(__name__)

KINDS = ("features", "tracker", "geometry", "captions")
CHOSEN_BY_NAME = ("captions",)
"""Kinds of which `ExtractConfig` names the backend."""
ENTRY_POINT_GROUP = "traceworld.backends"


@dataclass(frozen=True)
class BackendSpec:
    """How to find a backend and what it is, known before it is imported.

    Attributes:
        kind: one of `KINDS`.
        name: what users write.
        target: `package.module:factory`; calling the factory with the options makes the backend.
        licence: of code and weights together, the stricter one.
        summary: one line for `traceworld doctor`.
        needs: modules that must be importable.
        mend: command that provides what is missing.
    """

    kind: str
    name: str
    target: str
    licence: str
    summary: str
    needs: tuple[str, ...] = ()
    mend: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"unknown kind '{self.kind}'", where=f"backend {self.name}", mend=f"one of {KINDS}")
        if ":" not in self.target:
            raise ConfigError(f"'{self.target}' is not module:factory", where=f"backend {self.name}")


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be made on this machine; `reason` and `mend` are empty when it can."""

    kind: str
    name: str
    ok: bool
    reason: str
    mend: str
    licence: str


EMBEDDED = (
    BackendSpec(
        "features",
        "embedded",
        "traceworld.perception.features:EmbeddedFeatures",
        "Apache-2.0",
        "colour, gradient and depth statistics per cell; no weights",
    ),
    BackendSpec(
        "tracker",
        "embedded",
        "traceworld.perception.tracking:EmbeddedTracker",
        "Apache-2.0",
        "Lucas-Kanade and dense flow with checks in 3D; no weights",
    ),
    BackendSpec(
        "geometry",
        "embedded",
        "traceworld.perception.odometry:EmbeddedGeometry",
        "Apache-2.0",
        "sensor depth with RGB-D odometry behind a static-camera gate; no weights",
    ),
    BackendSpec(
        "captions",
        "template",
        "traceworld.perception.captions:TemplateCaptioner",
        "Apache-2.0",
        "sentences filled in from the traces: direction, distance, speed; sees no pictures",
    ),
)

_specs: dict[tuple[str, str], BackendSpec] = {(spec.kind, spec.name): spec for spec in EMBEDDED}
_third_party_loaded = False


def register(spec: BackendSpec) -> None:
    """Make a backend known by name. A second registration of the same kind and name is refused.

    Raises:
        ConfigError: the name is taken by another target.
    """
    known = _specs.get((spec.kind, spec.name))
    if known is not None and known != spec:
        raise ConfigError(
            f"the {spec.kind} backend '{spec.name}' is already {known.target}", where=spec.target, mend="rename it"
        )
    _specs[spec.kind, spec.name] = spec


def _load_third_party() -> None:
    """Read the entry points once. Each must be a `BackendSpec` or a sequence of them; a broken one is logged, not fatal."""
    global _third_party_loaded
    if _third_party_loaded:
        return
    _third_party_loaded = True
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            value = entry.load()
            for spec in [value] if isinstance(value, BackendSpec) else value:
                register(spec)
        except Exception as error:  # a third party's fault must not take the library down
            log.warning("backend entry point '%s' (%s) cannot be used: %s", entry.name, entry.value, error)


def specs(kind: str | None = None) -> tuple[BackendSpec, ...]:
    """All known backends, of one kind or of all, in the order of `KINDS` and then by name."""
    _load_third_party()
    chosen = [spec for spec in _specs.values() if kind in (None, spec.kind)]
    return tuple(sorted(chosen, key=lambda spec: (KINDS.index(spec.kind), spec.name)))


def find(kind: str, name: str) -> BackendSpec:
    """The backend of this kind and name.

    Raises:
        ConfigError: no such kind or backend; the message names the nearest.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind '{kind}'", where="backend", mend=f"one of {', '.join(KINDS)}")
    _load_third_party()
    if (kind, name) in _specs:
        return _specs[kind, name]
    names = [spec.name for spec in specs(kind)]
    nearest = get_close_matches(name, names, 1, 0.4)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    raise ConfigError(f"no {kind} backend is called '{name}'", where=kind, mend=f"{hint}known: {', '.join(names)}")


def check(kind: str, name: str) -> Availability:
    """Whether the backend can be made here, without making it.

    Raises:
        ConfigError: no such backend.
    """
    spec = find(kind, name)
    for needed in (*spec.needs, spec.target.partition(":")[0]):
        try:
            found = importlib.util.find_spec(needed) is not None
        except (ImportError, ValueError):  # a parent package is missing
            found = False
        if not found:
            mend = spec.mend or f"pip install {needed.split('.')[0]}"
            return Availability(kind, name, False, f"the module '{needed}' is not installed", mend, spec.licence)
    return Availability(kind, name, True, "", "", spec.licence)


def available(kind: str | None = None) -> tuple[Availability, ...]:
    """`check` of every known backend, of one kind or of all."""
    return tuple(check(spec.kind, spec.name) for spec in specs(kind))


def create(kind: str, name: str, **options: Any) -> Any:
    """Import the backend and make it with these options.

    Raises:
        ConfigError: no such backend, or it does not know an option.
        TraceworldError: it cannot be made here; the message holds the mend.
    """
    spec = find(kind, name)
    state = check(kind, name)
    if not state.ok:
        raise TraceworldError(state.reason, where=f"{kind} backend '{name}'", mend=state.mend)
    module, _, attribute = spec.target.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    try:
        return factory(**options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ConfigError(str(error), where=f"{kind} backend '{name}'", mend="see its docstring for options") from error
