"""Backends by name: those of `perception.catalogue` and those that other packages register under the entry-point group
`traceworld.backends`.

A backend is written `NAME[:WEIGHTS][#option=value&…]`: WEIGHTS is a hub id or a local path (for `openai` the MODEL@URL). It is
looked up without importing it; it is imported when made. `check` says whether it can be made here, and if not, why and
which command mends that; `available` says so of all. What is missing is an error: nothing falls back to something else.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from traceworld.errors import ConfigError, MissingExtraError, MissingWeightsError
from traceworld.perception.backend_spec import KINDS, BackendSpec
from traceworld.perception.catalogue import SPECS
from traceworld.perception.interfaces import BackendInfo

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "traceworld.backends"
TO_ACCEPT = ("non-commercial", "gated")
"""Licence classes that a run must name as accepted before it uses them."""


@dataclass(frozen=True)
class Choice:
    """A backend as a user writes it, taken apart."""

    name: str
    argument: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be made on this machine; `reason` and `mend` are empty when it can."""

    kind: str
    name: str
    ok: bool
    reason: str
    mend: str
    licence: str
    licence_class: str = "permissive"


@dataclass(frozen=True)
class Terms:
    """Under which licence a chosen backend stands."""

    kind: str
    name: str
    licence: str
    licence_class: str


_specs: dict[tuple[str, str], BackendSpec] = {(spec.kind, spec.name): spec for spec in SPECS}
_third_party_loaded = False


def parse_choice(text: str) -> Choice:
    """`NAME[:WEIGHTS][#option=value&…]`; values are JSON where they are (numbers, true), else words.

    Raises:
        ConfigError: no name, or an option without a value.
    """
    address, _, options = text.partition("#")
    name, _, argument = address.partition(":")
    if not name:
        raise ConfigError(f"'{text}' names no backend", where="backend", mend="NAME[:WEIGHTS][#option=value&…]")
    try:
        pairs = parse_qsl(options, keep_blank_values=True, strict_parsing=bool(options))
    except ValueError as error:
        raise ConfigError(f"'{options}' are no options", where=name, mend="write #option=value&option=value") from error
    return Choice(name, argument, {key.replace("-", "_"): _value(value) for key, value in pairs})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


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


def check(kind: str, text: str) -> Availability:
    """Whether the backend can be made here, without making it.

    Raises:
        ConfigError: no such backend.
    """
    choice = parse_choice(text)
    spec = find(kind, choice.name)
    about = (spec.licence, spec.licence_class)
    for reason, mend in (_lacking_code(spec), _lacking_weights(spec, choice)):
        if reason:
            return Availability(kind, spec.name, False, reason, mend, *about)
    return Availability(kind, spec.name, True, "", "", *about)


def _lacking_code(spec: BackendSpec) -> tuple[str, str]:
    if spec.checkout:
        folder = os.environ.get(spec.checkout, "")
        if not folder:
            return f"no clone: the variable {spec.checkout} is not set", spec.mend
        if not Path(folder).is_dir():
            return f"{spec.checkout} names '{folder}', which is no folder", spec.mend
    for needed in (*spec.needs, spec.target.partition(":")[0]):
        try:
            found = importlib.util.find_spec(needed) is not None
        except (ImportError, ValueError):  # a parent package is missing
            found = False
        if not found:
            return f"the module '{needed}' is not installed", spec.mend or f"pip install {needed.split('.')[0]}"
    return "", ""


def _lacking_weights(spec: BackendSpec, choice: Choice) -> tuple[str, str]:
    if spec.needs_argument:  # nothing to look for before the user says where it is
        return "", ""
    wanted = _weights_of(spec, choice)
    if wanted is None or wanted.find() is not None:
        return "", ""
    return f"the weights '{wanted.source}' are not on this machine", wanted.command()


def _weights_of(spec: BackendSpec, choice: Choice) -> Weights | None:
    if spec.weights is None or not choice.argument:
        return spec.weights
    if choice.argument == spec.weights.source:
        return spec.weights
    return dataclasses.replace(spec.weights, source=choice.argument, revision=None)


def available(kind: str | None = None) -> tuple[Availability, ...]:
    """`check` of every known backend, of one kind or of all."""
    return tuple(check(spec.kind, spec.name) for spec in specs(kind))


def terms(kind: str, text: str) -> Terms:
    """Licence of a choice. Weights that another backend of the catalogue uses carry that one's licence; others are the
    user's own to know (`user`)."""
    choice = parse_choice(text)
    spec = find(kind, choice.name)
    own = _weights_of(spec, choice)
    if spec.weights is None or own is None or own.source == spec.weights.source:
        return Terms(kind, text, spec.licence, spec.licence_class)
    for other in specs(kind):
        if other.weights is not None and other.weights.source == own.source:
            return Terms(kind, text, other.licence, other.licence_class)
    return Terms(kind, text, f"that of {own.source}", "user")


def require_accepted(chosen: Mapping[str, str], accepted: Collection[str]) -> None:
    """Refuse a run that uses restricted parts without saying so.

    Args:
        chosen: kind → backend as written. accepted: licence classes of `TO_ACCEPT` that the user accepts for this run.

    Raises:
        ConfigError: names every restricted part, its licence, and the option that accepts it.
    """
    unknown = sorted(set(accepted) - set(TO_ACCEPT))
    if unknown:
        raise ConfigError(f"unknown class '{unknown[0]}'", where="accept_licence", mend=f"of {', '.join(TO_ACCEPT)}")
    parts = [terms(kind, text) for kind, text in chosen.items()]
    refused = [part for part in parts if part.licence_class in TO_ACCEPT and part.licence_class not in accepted]
    if refused:
        listed = "; ".join(f"{part.kind} {part.name}: {part.licence} ({part.licence_class})" for part in refused)
        classes = " ".join(sorted({part.licence_class for part in parts if part.licence_class in TO_ACCEPT}))
        raise ConfigError(
            f"these parts are not free for every use: {listed}",
            where="licence",
            mend=f"add --accept-licence {classes} if their terms allow what you do, or choose other backends",
        )


def require_available(chosen: Mapping[str, str]) -> None:
    """Refuse a run whose backends are not all on this machine, before anything is loaded.

    Raises:
        ConfigError, MissingExtraError, MissingWeightsError: as `create`, for the first that is missing.
    """
    for kind, text in chosen.items():
        choice = parse_choice(text)
        _require(find(kind, choice.name), choice, kind, text, {})


def _require(spec: BackendSpec, choice: Choice, kind: str, text: str, options: Mapping[str, Any]) -> None:
    where = f"{kind} backend '{spec.name}'"
    if choice.argument and not spec.argument:
        raise ConfigError(f"takes nothing after the colon ('{choice.argument}')", where=where)
    if spec.needs_argument and not choice.argument and spec.argument not in {**options, **choice.options}:
        raise ConfigError("says nothing without an address", where=where, mend=f"write {spec.needs_argument}")
    reason, mend = _lacking_code(spec)
    if reason:
        raise MissingExtraError(reason, where=where, mend=mend)
    reason, mend = _lacking_weights(spec, choice)
    if reason and "weights" not in options:
        raise MissingWeightsError(f"{reason} (licence: {terms(kind, text).licence})", where=where, mend=mend)


_held: dict[str, tuple[str, Any]] = {}


def held(kind: str, text: str, **options: Any) -> Any:
    """As `create`, but the last backend of each kind is kept in this process: a worker loads a model once, not per clip.

    Only for backends that remember nothing from clip to clip, or are told where one begins (`EntityBackend.start`).
    """
    key = f"{text} {sorted(options.items())}"
    if kind not in _held or _held[kind][0] != key:
        _held.pop(kind, None)  # two models of a kind need not fit into memory
        _held[kind] = (key, create(kind, text, **options))
    return _held[kind][1]


def create(kind: str, text: str, **options: Any) -> Any:
    """Import the backend and make it with these options and those written in the text.

    Raises:
        ConfigError: no such backend, or it does not know an option.
        MissingExtraError, MissingWeightsError: code or weights are not here; `mend` is the exact command.
    """
    choice = parse_choice(text)
    spec = find(kind, choice.name)
    _require(spec, choice, kind, text, options)
    module, _, attribute = spec.target.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    given = {**_defaults(spec, choice), **choice.options, **options}
    try:
        inspect.signature(factory).bind(**given)
    except TypeError as error:
        where = f"{kind} backend '{spec.name}'"
        raise ConfigError(str(error), where=where, mend="see its docstring for options") from error
    return _named(factory(**given), spec, kind, text)


def _defaults(spec: BackendSpec, choice: Choice) -> dict[str, Any]:
    if spec.weights is not None:
        return {"weights": _weights_of(spec, choice)}
    return {spec.argument: choice.argument} if choice.argument else {}


def _named(backend: Any, spec: BackendSpec, kind: str, text: str) -> Any:
    """The backend with name, licence and weights of this choice in its `info`: one class serves several names."""
    info = getattr(backend, "info", None)
    if isinstance(info, BackendInfo) and spec.weights is not None:
        part, used = terms(kind, text), _weights_of(spec, parse_choice(text))
        assert used is not None
        backend.info = dataclasses.replace(
            info, name=spec.name, licence=part.licence, licence_class=part.licence_class,
            weights=used.source, revision=used.found_revision() or "",
        )  # fmt: skip
    return backend
