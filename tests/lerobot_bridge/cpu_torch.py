"""Run a CUDA build of torch on a machine without CUDA, without the 2.5 GB of CUDA libraries it asks for.

    VENV/bin/python cpu_torch.py

PyPI has no CPU build of the torch versions that LeRobot admits. The loader wants the CUDA libraries to be there, the CPU
code never calls them. This puts in their place empty libraries with the names and symbols that torch's own libraries look
for; every symbol returns an error code. Only for the test environment of `make test-lerobot`; where a CPU build of torch
can be had (PIP_ARGS with PyTorch's own index) it is not needed and does nothing.
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# Real and small (2 MB): its symbols run when torch's libraries are loaded.
REAL = ("libcudart.so",)
SYSTEM = re.compile(
    r"^(libc10|libtorch|libshm|libcaffe2|libc\.|libm\.|libdl|librt|libpthread|libgcc_s|libstdc|ld-linux|libgomp|libcuda\.)"
)


def readelf(library: Path, *options: str) -> list[str]:
    out = subprocess.run(["readelf", *options, "-W", str(library)], capture_output=True, text=True, check=True)
    return out.stdout.splitlines()


def needed(library: Path) -> list[str]:
    return [line.rsplit("[", 1)[1].rstrip("]") for line in readelf(library, "-d") if "(NEEDED)" in line]


def undefined(library: Path) -> set[tuple[str, str]]:
    """(symbol, version or '') of everything that `library` expects others to define."""
    fields = [line.split() for line in readelf(library, "--dyn-syms")]
    names = [field[7] for field in fields if len(field) > 7 and field[6] == "UND" and field[4] != "WEAK"]
    return {(name.split("@")[0], name.split("@")[1] if "@" in name else "") for name in names}


def defined(library: Path) -> set[str]:
    fields = [line.split() for line in readelf(library, "--dyn-syms")]
    return {field[7].split("@")[0] for field in fields if len(field) > 7 and field[6] not in ("UND", "Ndx")}


def versions_of(library: Path) -> set[tuple[str, str]]:
    """(library, version) pairs that `library` asks of others."""
    pairs, file = set(), ""
    for line in readelf(library, "-V"):
        if found := re.search(r"File: (\S+)", line):
            file = found[1]
        elif found := re.search(r"Name: (\S+)", line):
            pairs.add((file, found[1]))
    return pairs


def stand_in(target: Path, version_of: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, script = Path(scratch) / "empty.c", Path(scratch) / "versions.map"
        source.write_text("".join(f"int {name}(void) {{ return 999; }}\n" for name in sorted(version_of)))
        versions = sorted({version for version in version_of.values() if version})
        script.write_text(
            "".join(
                f"{version} {{ global: {' '.join(f'{n};' for n, v in sorted(version_of.items()) if v == version)} }};\n"
                for version in versions
            )
        )
        options = [f"-Wl,--version-script={script}"] if versions else []
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{target.name}", *options, str(source), "-o", str(target)],
            check=True,
        )


def main(site_packages: Path) -> int:
    torch_libraries = sorted((site_packages / "torch" / "lib").glob("lib*.so"))
    wanted = {name for library in torch_libraries for name in needed(library) if not SYSTEM.match(name)}
    wanted = {name for name in wanted if not name.startswith(REAL)}
    folder = site_packages / "nvidia" / "cu13" / "lib"
    missing = sorted(name for name in wanted if not list((site_packages / "nvidia").glob(f"*/lib/{name}")))
    if not missing:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    everything = [*torch_libraries, *folder.glob("libcudart.so*")]
    at_home = {name for library in everything for name in defined(library)}
    asked = {pair for library in torch_libraries for pair in undefined(library) if pair[0] not in at_home}
    foreign = {(name, version) for name, version in asked if re.match(r"^(cu|nccl|nvshmem|nvrtc|nvml|nvtx)", name)}
    versions = {pair for library in torch_libraries for pair in versions_of(library)}
    for name in missing:
        mine = {symbol: version for symbol, version in foreign if not version or (name, version) in versions}
        stand_in(folder / name, mine)
    sys.stdout.write(f"stand-ins for {', '.join(missing)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sysconfig.get_paths()["purelib"])))
