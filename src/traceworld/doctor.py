"""What this machine can do: python, torch, device, rendering, extras, backends, weights; and the command that mends each lack."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass

RENDER_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 2'/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 8, 8) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group, name: what was looked at.
        ok: True if it can be used now.
        detail: version, or why it cannot be used.
        licence: of code or weights, where it matters.
        mend: the command that makes it work ("" if nothing is wrong).
    """

    group: str
    name: str
    ok: bool
    detail: str
    licence: str = ""
    mend: str = ""


def _system() -> list[Finding]:
    version = platform.python_version()
    findings = [
        Finding(
            "system",
            "python",
            sys.version_info >= (3, 11),
            version,
            mend="" if sys.version_info >= (3, 11) else "install Python ≥ 3.11",
        )
    ]
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if cuda else f"CPU, {torch.get_num_threads()} threads"
    findings.append(Finding("system", "torch", True, torch.__version__))
    findings.append(Finding("system", "device", True, device))
    return findings


def _rendering() -> Finding:
    """MuJoCo's offscreen renderer, tried in a process of its own: a missing GL library can abort, not only raise."""
    if importlib.util.find_spec("mujoco") is None:
        return Finding("system", "rendering", False, "mujoco is not installed", mend="pip install 'traceworld[sim]'")
    environment = {"MUJOCO_GL": "egl", **os.environ}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", RENDER_PROBE], env=environment, capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return Finding(
            "system", "rendering", False, "the probe did not answer in 60 s", mend="sudo apt-get install libegl1 libgl1"
        )
    if probe.returncode == 0:
        return Finding("system", "rendering", True, f"MUJOCO_GL={environment['MUJOCO_GL']}")
    reason = probe.stderr.strip().splitlines()[-1] if probe.stderr.strip() else f"exit code {probe.returncode}"
    return Finding("system", "rendering", False, reason, mend="sudo apt-get install libegl1 libgl1")


def _extras() -> list[Finding]:
    from traceworld.extras import EXTRA_OF, package_of

    findings = []
    for module, extra in EXTRA_OF.items():
        try:  # the package, not the module: somebody's folder `datasets` can be imported too
            detail, found = importlib.metadata.version(package_of(module)), True
        except importlib.metadata.PackageNotFoundError:
            detail, found = "not installed", False
        findings.append(
            Finding(f"extra {extra}", module, found, detail, mend="" if found else f"pip install 'traceworld[{extra}]'")
        )
    return findings


def _backends() -> list[Finding]:
    """Every backend: whether it can be used, what it gives, its licence, and the command for what is missing."""
    from traceworld.perception import registry

    findings = []
    for entry in registry.available():
        spec = registry.find(entry.kind, entry.name)
        gives = spec.gives.words()
        detail = entry.reason or (f"{spec.summary} ({gives})" if gives else spec.summary)
        licence = entry.licence if entry.licence_class == "permissive" else f"{entry.licence} [{entry.licence_class}]"
        findings.append(Finding(f"backend {entry.kind}", entry.name, entry.ok, detail, licence, entry.mend))
    return findings


def _weights() -> list[Finding]:
    """The models that ship: each is loaded, since weights that are there can still be damaged."""
    from traceworld.errors import TraceworldError
    from traceworld.models.predictor import SHIPPED, load_predictor
    from traceworld.policies.registry import SHIPPED as SHIPPED_POLICIES
    from traceworld.policies.registry import load_policy

    findings = []
    for load, names in ((load_predictor, SHIPPED), (load_policy, SHIPPED_POLICIES)):
        for name in names:
            try:
                load(name)
                findings.append(Finding("weights", name, True, "ships with the package", "Apache-2.0"))
            except TraceworldError as error:
                findings.append(Finding("weights", name, False, error.message, "Apache-2.0", error.mend or ""))
    return findings


def _predictors() -> list[Finding]:
    """What other packages registered: it can be used if it can be imported (it is not made here, which may be costly)."""
    from traceworld.models.predictor import ENTRY_POINT_GROUP

    findings = []
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            entry.load()
            findings.append(Finding("predictor", entry.name, True, origin))
        except Exception as error:
            mend = "update or remove its package"
            findings.append(Finding("predictor", entry.name, False, f"{origin}: {error!r}", mend=mend))
    return findings


def examine() -> list[Finding]:
    """Look at everything once. Never raises for something that is merely absent."""
    return [*_system(), _rendering(), *_extras(), *_backends(), *_predictors(), *_weights()]


def as_json(findings: list[Finding]) -> dict:
    """The findings as a JSON-able object; `ok` tells whether the embedded profile works."""
    needed = {"python", "torch", "rendering", "mu0-nano"}
    return {"ok": all(f.ok for f in findings if f.name in needed), "findings": [asdict(f) for f in findings]}
