"""Files named by requests: what lies below the shared folder is read, and nothing else, however it is named."""

import os

import pytest

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.serving.query_files import SharedFolder


@pytest.fixture
def shared(tmp_path):
    root = tmp_path / "shared"
    (root / "inner").mkdir(parents=True)
    (root / "a.png").write_bytes(b"picture")
    (root / "inner" / "b.png").write_bytes(b"other")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "shared-too").mkdir()
    (tmp_path / "shared-too" / "c.png").write_bytes(b"secret")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "outdir").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "a.png")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    return root


def test_files_below_are_read(shared):
    folder = SharedFolder(shared, 100)
    for name in (str(shared / "a.png"), "a.png", "inner/../a.png", "in", str(shared / "inner" / ".." / "a.png")):
        assert folder.read(name, "image_paths") == b"picture"
    assert folder.read("inner/b.png", "image_paths") == b"other"
    link = shared.parent / "link"
    link.symlink_to(shared)
    assert SharedFolder(link, 100).read(str(link / "a.png"), "image_paths") == b"picture"


@pytest.mark.parametrize(
    "name",
    [
        "../secret", "/etc/passwd", "inner/../../secret", "out", "outdir/secret", "loop", "pipe", "inner", "", ".", "none.png",
        "../shared-too/c.png", "a.png\0.jpg", "x" * 5000, "~/a.png", "/proc/self/environ", "../none",
    ],
)  # fmt: skip
def test_all_else_is_refused_with_the_same_words(shared, name):
    with pytest.raises(InvalidInputError) as caught:
        SharedFolder(shared, 100).read(name, "image_paths")
    assert caught.value.message == "is no file of the folder that this server reads", "whether it exists does not show"
    with pytest.raises(InvalidInputError, match="is no file"):
        SharedFolder(shared, 100).read(str(shared / name) if name else name, "image_paths")


def test_sizes_and_folders(shared):
    with pytest.raises(InvalidInputError, match="too large"):
        SharedFolder(shared, 6).read("a.png", "image_paths")
    assert SharedFolder(shared, 7).read("a.png", "image_paths") == b"picture"
    with pytest.raises(InvalidInputError, match="reads no files"):
        SharedFolder(None, 100).read(str(shared / "a.png"), "image_paths")
    for wrong in (shared / "a.png", shared / "nowhere"):
        with pytest.raises(ConfigError, match="no folder"):
            SharedFolder(wrong, 100)
