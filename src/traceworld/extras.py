"""Optional dependencies: import one where it is used, or say which extra brings it."""

from __future__ import annotations

import importlib
from types import ModuleType

from traceworld.errors import MissingExtraError

EXTRA_OF = {
    "transformers": "vlm",
    "mujoco": "sim",
    "gymnasium": "sim",
    "metaworld": "sim",
    "viser": "viewer",
    "plotly": "viewer",
    "fastapi": "serve",
    "msgpack": "serve",
    "prometheus_client": "serve",
    "python_multipart": "serve",
    "uvicorn": "serve",
    "websockets": "serve",
}


def require(module: str) -> ModuleType:
    """Import an optional module by its full name.

    Raises:
        MissingExtraError: it is not installed; the message names the extra and the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = EXTRA_OF.get(module.split(".")[0])
        mend = f"pip install 'traceworld[{extra}]'" if extra else f"pip install {module.split('.')[0]}"
        raise MissingExtraError(f"the package '{module}' is needed here: {error}", mend=mend) from error
