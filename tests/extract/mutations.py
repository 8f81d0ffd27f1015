"""Small whole inputs of every kind that extraction reads, and seeded ways to damage them."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from made_media import boards_clip, moving_square, write_rgbd, write_video
from PIL import Image

FRAMES, WIDTH, HEIGHT = 6, 80, 64

VIDEOS = {  # name: codec, pixel format
    "h264.mp4": ("libx264", "yuv420p"),
    "mpeg4.mov": ("mpeg4", "yuv420p"),
    "h264.mkv": ("libx264", "yuv420p"),
    "vp8.webm": ("libvpx", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "h264.ts": ("libx264", "yuv420p"),
    "h264.flv": ("libx264", "yuv420p"),
    "pictures.gif": ("gif", "rgb8"),
}
FOLDERS = ("png", "jpg", "rgbd_png", "rgbd_npy", "rgbd_tiff")
KINDS = (*VIDEOS, *FOLDERS)


def make_seeds(folder: Path) -> dict[str, Path]:
    """One whole input of each kind, by kind."""
    images = moving_square(FRAMES, WIDTH, HEIGHT, size=24, step=3)
    made = {}
    for name, (codec, pixel_format) in VIDEOS.items():
        made[name] = write_video(folder / name, images, codec=codec, pixel_format=pixel_format)
    for suffix in ("png", "jpg"):
        made[suffix] = folder / suffix
        made[suffix].mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(made[suffix] / f"{number:03d}.{suffix}")
    colour, depth_m = boards_clip(FRAMES, WIDTH, HEIGHT, step_m=0.02)
    poses = np.repeat(np.eye(4)[None], FRAMES, 0).tolist()
    made["rgbd_png"] = write_rgbd(folder / "rgbd_png", colour, depth_m)
    made["rgbd_npy"] = write_rgbd(folder / "rgbd_npy", colour, depth_m, unit_m=1.0, suffix=".npy", cam_from_world=poses)
    made["rgbd_tiff"] = write_rgbd(folder / "rgbd_tiff", colour, depth_m, unit_m=1.0, suffix=".npy", fps=10)
    for file in sorted((made["rgbd_tiff"] / "depth").iterdir()):
        Image.fromarray(np.load(file)).save(file.with_suffix(".tiff"))
        file.unlink()
    return made


# ---------------------------------------------------------------------- damage to bytes

Mutator = Callable[[np.random.Generator, bytearray], bytearray]
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip_bits(rng, data):
    for at in rng.integers(0, len(data), int(rng.integers(1, 65))):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def cut(rng, data):
    return data[: int(rng.integers(0, len(data)))]


def scramble_header(rng, data):
    reach = min(len(data), int(rng.choice([16, 64, 512])))
    for at in rng.integers(0, reach, int(rng.integers(1, 9))):
        data[at] = int(rng.integers(256))
    return data


def overwrite(rng, data):
    at, size = int(rng.integers(0, len(data))), int(rng.integers(1, 1 + len(data) // 4))
    filling = rng.choice(["noise", "zeros", "ones"])
    block = rng.bytes(size) if filling == "noise" else bytes([0 if filling == "zeros" else 255]) * size
    data[at : at + size] = block[: len(data) - at]
    return data


def delete(rng, data):
    at, size = int(rng.integers(0, len(data))), int(rng.integers(1, 1 + len(data) // 4))
    del data[at : at + size]
    return data


def repeat(rng, data):
    at, size = int(rng.integers(0, len(data))), int(rng.integers(1, 1 + len(data) // 4))
    data[at:at] = data[at : at + size] * int(rng.integers(1, 5))
    return data


def extreme_number(rng, data):
    """A two-, four- or eight-byte field somewhere, often near the beginning, gets a number at the edge of its range."""
    form = str(rng.choice([">H", "<H", ">I", "<I", ">Q", "<Q"]))
    size = struct.calcsize(form)
    if len(data) <= size:
        return data
    reach = len(data) - size if rng.random() < 0.5 else min(len(data) - size, 256)
    at = int(rng.integers(0, reach + 1))
    data[at : at + size] = struct.pack(form, int(rng.choice(EDGES)) % 256**size)
    return data


ANYWHERE: tuple[Mutator, ...] = (flip_bits, cut, scramble_header, overwrite, delete, repeat, extreme_number)


def damage_box(rng, data):
    """A field in one of the boxes that say how an mp4 is laid out."""
    names = [b"mvhd", b"tkhd", b"mdhd", b"stsd", b"avc1", b"mp4v", b"stts", b"stsc", b"stsz", b"stco", b"elst"]
    places = [data.find(name) for name in names if name in data]
    if not places:
        return extreme_number(rng, data)
    at = int(rng.choice(places)) + 4 + int(rng.integers(0, 40))
    data[at : at + 4] = struct.pack(">I", int(rng.choice(EDGES)))
    return data


def damage_png_header(rng, data):
    """Size or kind of picture, with a right check sum, so that readers believe it."""
    at = data.find(b"IHDR")
    if at < 0:
        return extreme_number(rng, data)
    if rng.random() < 0.7:
        side = 4 + 4 * int(rng.integers(2))
        data[at + side : at + side + 4] = struct.pack(">I", int(rng.choice(EDGES)))
    else:
        data[at + 12 + int(rng.integers(0, 5))] = int(rng.integers(0, 20))
    data[at + 17 : at + 21] = struct.pack(">I", zlib.crc32(data[at : at + 17]))
    return data


def damage_npy_header(rng, data):
    """Shape, type or order in the words of the header."""
    shapes = [(0,), (64,), (64, 80, 2), (10**6, 10**6), (10**12,), (-1, 5), (64, 0), (2**62, 4), (63, 80), ()]
    kinds = ["<f8", ">f4", "<u2", "|u1", "|b1", "<c8", "|O", "<U5", "|V3", "<i8", "<M8[s]", "[('a','<f4')]", "'"]
    shape = shapes[int(rng.integers(len(shapes)))] if rng.random() < 0.6 else (64, 80)
    kind = str(rng.choice(kinds)) if rng.random() < 0.6 else "<f4"
    words = f"{{'descr': '{kind}', 'fortran_order': {bool(rng.integers(2))}, 'shape': {shape}, }}"
    words = words[: int(rng.integers(5, 60))] if rng.random() < 0.2 else words
    size = struct.unpack("<H", data[8:10])[0]
    data[10 : 10 + size] = words.encode().ljust(size - 1)[: size - 1] + b"\n"
    return data


def damage_json(rng, data):
    """Another value for a field, or for a number in one."""
    values = [
        None, True, -1, 0, 1e308, -1e308, 1e-308, 10**400, "", "x" * 1000, [], [[]], {}, {"a": 1}, [1, [2]], "NaN", 0.5,
        [[1e300] * 3] * 3, [float("nan")] * 6, [0] * 6, [1e9 * k for k in range(6)], [5, 4, 3, 2, 1, 0], -0.0, 65536,
    ]  # fmt: skip
    fields = json.loads(data)
    name = str(rng.choice([*fields, "distortion", "depth_K", "color_from_depth", "cam_from_world", "fps"]))
    value = values[int(rng.integers(len(values)))]
    old = fields.get(name)
    if isinstance(old, list) and rng.random() < 0.5:
        inner = old[int(rng.integers(len(old)))]
        if isinstance(inner, list):
            inner[int(rng.integers(len(inner)))] = value
        else:
            old[int(rng.integers(len(old)))] = value
    elif name == "distortion" and rng.random() < 0.7:
        fields[name] = rng.normal(scale=float(rng.choice([0.1, 10, 1e6])), size=5).tolist()
    elif rng.random() < 0.15:
        fields.pop(name, None)
    else:
        fields[name] = value
    return bytearray(json.dumps(fields).encode())


def nest_json(rng, data):
    depth = int(rng.choice([50, 3000, 100_000]))
    return bytearray(b'{"color_K": ' + b"[" * depth + b"]" * depth + b"}")


def _own(file: Path) -> tuple[Mutator, ...]:
    """Damage that only a file of this kind can have."""
    return {
        ".mp4": (damage_box,) * 3,
        ".mov": (damage_box,) * 3,
        ".png": (damage_png_header,) * 3,
        ".npy": (damage_npy_header,) * 4,
        ".json": (damage_json,) * 20 + (nest_json,),
    }.get(file.suffix, ())


def damage_folder(rng: np.random.Generator, folder: Path) -> Path:
    """One file of a folder, mostly; its list of files now and then. Returns what was touched."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    about = [file for file in files if file.suffix == ".json"]
    chosen = about[0] if about and rng.random() < 0.4 else files[int(rng.integers(len(files)))]
    kind = rng.random()
    if kind < 0.04:
        chosen.unlink()
    elif kind < 0.07:
        chosen.rename(chosen.with_name("surplus" + chosen.suffix))
    elif kind < 0.09:
        chosen.unlink()
        chosen.mkdir()
    elif kind < 0.13 and chosen.suffix != ".json":
        size = (int(rng.integers(1, 200)), int(rng.integers(1, 200)))
        Image.fromarray(np.zeros(size, np.uint16)).save(chosen.with_suffix(".png"))
    else:
        damage_file(rng, chosen)
    return chosen


def damage_file(rng: np.random.Generator, file: Path) -> None:
    """Rewrite a file with one to three kinds of damage."""
    data = bytearray(file.read_bytes())
    choices = (*ANYWHERE, *_own(file))
    first = choices[int(rng.integers(len(choices)))]
    data = first(rng, data)
    while len(data) and rng.random() < 0.25:
        data = ANYWHERE[int(rng.integers(len(ANYWHERE)))](rng, data)
    file.write_bytes(data)


def mutate(seeds: dict[str, Path], folder: Path, number: int, seed: int = 0) -> Path:
    """Damaged input `number`; the same for the same seeds, number and seed."""
    rng = np.random.default_rng([seed, number])
    kind = KINDS[number % len(KINDS)]
    source = seeds[kind]
    if source.is_dir():
        target = Path(shutil.copytree(source, folder / f"{number:04d}_{kind}"))
        damage_folder(rng, target)
    else:
        target = Path(shutil.copy(source, folder / f"{number:04d}_{kind}"))
        damage_file(rng, target)
    return target


# ---------------------------------------------------------------------- pictures that claim to be vast


def huge_gif(path: Path, side: int) -> Path:
    write_video(path, moving_square(3, WIDTH, HEIGHT, size=24), codec="gif", pixel_format="rgb8")
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", side, side)
    path.write_bytes(data)
    return path


def huge_webm(path: Path, side: int) -> Path:
    """The size is in each key frame, where only the decoder sees it."""
    write_video(path, moving_square(3, WIDTH, HEIGHT, size=24), codec="libvpx")
    data, at = bytearray(path.read_bytes()), -1
    while (at := data.find(b"\x9d\x01\x2a", at + 1)) >= 0:
        data[at + 3 : at + 7] = struct.pack("<HH", side, side)
    path.write_bytes(data)
    return path


def huge_mov(path: Path, side: int) -> Path:
    """Pictures as PNG, whose decoder takes the memory before it reads a line."""
    write_video(path, moving_square(3, WIDTH, HEIGHT, size=24), codec="png", pixel_format="rgb24")
    data, at = bytearray(path.read_bytes()), -1
    while (at := data.find(b"IHDR", at + 1)) >= 0:
        data[at + 4 : at + 12] = struct.pack(">II", side, side)
    path.write_bytes(data)
    return path


def huge_png(path: Path, side: int) -> Path:
    """A real one, of a single colour: a few kilobytes."""
    ok, data = cv2.imencode(".png", np.zeros((side, side), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert ok
    path.write_bytes(data.tobytes())
    return path
