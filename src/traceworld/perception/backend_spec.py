"""What a backend says of itself before anything of it is imported: where it is, what it gives, under which licence."""

from __future__ import annotations

from dataclasses import dataclass

from traceworld.errors import ConfigError
from traceworld.perception.conventions import Native, Scale
from traceworld.perception.weights import Weights

KINDS = ("features", "geometry", "tracking", "entities", "captions")
LICENCE_CLASSES = ("permissive", "non-commercial", "gated", "user")
"""`gated`: behind terms to be accepted on the model's page. `user`: weights or a server of the user's own choosing, whose
terms are not known here."""


@dataclass(frozen=True)
class Gives:
    """What a backend's answers hold.

    Attributes:
        scale: `metric`, `per-pass` (another unit in every call), `input` (that of the depth it is given) or `none`.
        poses: it solves camera poses itself. intrinsics: and intrinsics.
        tracks: `2D`, `world` or "" (no tracker). occlusion: it tells hidden from seen.
    """

    scale: Scale = "none"
    poses: bool = False
    intrinsics: bool = False
    tracks: str = ""
    occlusion: bool = False

    def words(self) -> str:
        """For `traceworld doctor`; "" if there is nothing to say."""
        scales = {"metric": "metres", "per-pass": "a unit per pass", "input": "the scale of its depth"}
        parts = [f"{self.tracks} tracks"] if self.tracks else []
        parts += [scales[self.scale]] if self.scale in scales else []
        parts += [name for name in ("poses", "intrinsics", "occlusion") if getattr(self, name)]
        return ", ".join(parts)


@dataclass(frozen=True)
class BackendSpec:
    """How to find a backend and what it is, known before it is imported.

    Attributes:
        kind: one of `KINDS`.
        name: what users write.
        target: `package.module:factory`; calling the factory with the options makes the backend.
        licence: name of the licence, of code and weights together, the stricter one.
        summary: one line for `traceworld doctor`.
        needs: modules that must be importable.
        mend: command that provides what is missing.
        licence_class: one of `LICENCE_CLASSES`.
        weights: what it loads unless the user names other weights.
        gives: what its answers hold. native: the conventions it speaks, converted by its adapter.
        checkout: environment variable that holds the folder of its git clone, for code that is no package.
        argument: option that the text after the colon fills; "" if it takes none.
        needs_argument: it has no default for it; the text says what to write.
    """

    kind: str
    name: str
    target: str
    licence: str
    summary: str
    needs: tuple[str, ...] = ()
    mend: str = ""
    licence_class: str = "permissive"
    weights: Weights | None = None
    gives: Gives = Gives()
    native: Native | None = None
    checkout: str = ""
    argument: str = ""
    needs_argument: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"unknown kind '{self.kind}'", where=f"backend {self.name}", mend=f"one of {KINDS}")
        if ":" not in self.target:
            raise ConfigError(f"'{self.target}' is not module:factory", where=f"backend {self.name}")
        if self.licence_class not in LICENCE_CLASSES:
            raise ConfigError(
                f"unknown licence class '{self.licence_class}'", where=f"backend {self.name}", mend=f"{LICENCE_CLASSES}"
            )
