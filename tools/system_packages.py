"""Install Debian packages that a run needs, if this user may; else show the exact command and go on.

Usage: system_packages.py WHAT=PACKAGE ...   where WHAT is a shared library (libX.so.N) or a program.
"""

import ctypes
import os
import shutil
import subprocess
import sys


def present(what: str) -> bool:
    if ".so" not in what:
        return shutil.which(what) is not None
    try:
        ctypes.CDLL(what)
    except OSError:
        return False
    return True


def main(pairs: list[str]) -> int:
    missing = [package for what, package in (pair.split("=") for pair in pairs) if not present(what)]
    if not missing:
        return 0
    command = ["apt-get", "install", "-y", "-qq", *missing]
    shown = "sudo apt-get install " + " ".join(missing)
    if shutil.which("apt-get") is None:
        sys.stderr.write(
            f"Missing system packages (Debian names): {' '.join(missing)}. Install them with your package manager.\n"
        )
        return 0
    if os.geteuid() != 0:
        allowed = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
        if not allowed:
            sys.stderr.write(f"Missing system packages. Run: {shown}\n")
            return 0
        command = ["sudo", "-n", *command]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update = [*command[: command.index("apt-get") + 1], "update", "-qq"]
    subprocess.run(update, env=environment, stdout=subprocess.DEVNULL)
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
        sys.stderr.write(f"Could not install system packages. Run: {shown}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
