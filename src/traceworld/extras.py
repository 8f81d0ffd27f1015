"""Optional dependencies: import one where it is used, or say which extra brings it."""

from __future__ import annotations

import importlib
from types import ModuleType

from traceworld.errors import MissingExtraError

EXTRA_OF = {
    "transformers": "vlm",
    "tokenizers": "vlm",
    "huggingface_hub": "hub",
    "h5py": "egodex",
    "zarr": "egoverse",
    "ray": "ray",
    "mujoco": "sim",
    "gymnasium": "sim",
    "metaworld": "sim",
    "yaml": "sim",
    "viser": "viewer",
    "plotly": "viewer",
    "fastapi": "serve",
    "msgpack": "serve",
    "prometheus_client": "serve",
    "python_multipart": "serve",
    "uvicorn": "serve",
    "websockets": "serve",
    "accelerate": "robotracer",
    "datasets": "robotracer",
    "peft": "robotracer",
    "trl": "robotracer",
    "tensorboard": "logging",
    "trackio": "logging",
    "wandb": "logging",
}
"""Module → the extra of pyproject.toml that brings it."""

_NEEDS = {"torch.utils.tensorboard": "tensorboard"}
"""Modules of a package that is there anyway, which work only beside another one."""

OWN_PACKAGES = {"traceworld_client": "./packages/traceworld-client"}
"""Module → the package of this repository that brings it."""

_PACKAGE_OF = {
    **OWN_PACKAGES,
    "huggingface_hub": "huggingface-hub",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
    "yaml": "pyyaml",
}


def package_of(module: str) -> str:
    """The name under which pip knows the package that a module (`yaml`, `websockets.exceptions`) belongs to."""
    needed = _NEEDS.get(module, module).split(".")[0]
    return _PACKAGE_OF.get(needed, needed)


def require(module: str) -> ModuleType:
    """Import an optional module by its full name.

    Raises:
        MissingExtraError: it is not installed; the message names the extra and the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        needed = _NEEDS.get(module, module).split(".")[0]
        extra = EXTRA_OF.get(needed)
        mend = f"pip install 'traceworld[{extra}]'" if extra else f"pip install {package_of(module)}"
        raise MissingExtraError(f"the package '{package_of(module)}' is needed here: {error}", mend=mend) from error
