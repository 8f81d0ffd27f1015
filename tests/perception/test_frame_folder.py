"""Folders of pictures: order, sizes, modes, damage."""

import numpy as np
import pytest
from made_media import moving_square, texture
from PIL import Image

from traceworld.errors import MediaError
from traceworld.perception.frame_folder import image_files, natural_key, picture_size, read_image
from traceworld.perception.sources import open_source


def write_pictures(folder, images, names=None):
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        name = names[number] if names else f"frame_{number}.png"
        Image.fromarray(image).save(folder / name)
    return folder


def test_natural_order():
    names = ["f10.png", "f2.png", "F1.png", "a1b20.png", "a1b3.png"]
    assert sorted(names, key=natural_key) == ["a1b3.png", "a1b20.png", "F1.png", "f2.png", "f10.png"]


def test_frames_come_in_natural_order_with_even_times(tmp_path):
    images = moving_square(12)
    source = open_source(write_pictures(tmp_path / "clip", images), frame_rate=20.0)
    frames = list(source)
    assert source.num_frames == 12
    assert source.kind == "frames"
    for image, frame in zip(images, frames, strict=True):
        assert np.array_equal(frame.image, image)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(12) / 20)
    np.testing.assert_allclose([f.time_s for f in open_source(tmp_path / "clip")], np.arange(12) / 30)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path):
    folder = write_pictures(tmp_path / "clip", moving_square(3))
    (folder / "notes.txt").write_text("x")
    (folder / "._frame_0.png").write_bytes(b"resource fork")
    assert [path.name for path in image_files(folder)] == ["frame_0.png", "frame_1.png", "frame_2.png"]


def test_mixed_sizes_name_the_file(tmp_path):
    folder = write_pictures(tmp_path / "clip", [texture(0, 48, 64), texture(1, 48, 64), texture(2, 50, 64)])
    with pytest.raises(MediaError, match=r"64×50.*64×48") as caught:
        open_source(folder)
    assert "frame_2.png" in str(caught.value.where)


def test_one_picture_and_none(tmp_path):
    with pytest.raises(MediaError, match="1 picture"):
        open_source(write_pictures(tmp_path / "one", moving_square(1)))
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="neither pictures nor"):
        open_source(tmp_path / "none")


def test_a_truncated_picture_names_the_file(tmp_path):
    folder = write_pictures(tmp_path / "clip", moving_square(4))
    path = folder / "frame_2.png"
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(MediaError) as caught:
        list(open_source(folder))
    assert "frame_2.png" in str(caught.value.where)


def test_a_file_that_is_no_picture_is_found_at_opening(tmp_path):
    folder = write_pictures(tmp_path / "clip", moving_square(4))
    (folder / "frame_3.png").write_text("no picture")
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        open_source(folder)


def test_every_mode_becomes_rgb(tmp_path):
    grey = texture(0, 32, 40)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(texture(0, 32, 40)).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(texture(0, 32, 40)).convert("P").save(tmp_path / "palette.png")
    for name in ("grey", "deep"):
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), np.repeat(grey[..., None], 3, -1))
    assert np.array_equal(read_image(tmp_path / "alpha.png"), texture(0, 32, 40))
    assert read_image(tmp_path / "palette.png").shape == (32, 40, 3)


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.fromarray(texture(0, 32, 48))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").shape == (48, 32, 3)
    assert picture_size(tmp_path / "turned.png") == (32, 48)


def test_large_pictures_are_scaled_down(tmp_path):
    source = open_source(write_pictures(tmp_path / "clip", [texture(i, 300, 500) for i in range(2)]), max_side=100)
    assert next(iter(source)).image.shape == (60, 100, 3)


def test_several_clips_are_not_one(tmp_path):
    write_pictures(tmp_path / "a", moving_square(2))
    with pytest.raises(MediaError, match="several clips"):
        open_source(tmp_path)


def test_truth_is_never_an_input(tmp_path):
    folder = write_pictures(tmp_path / "episode.truth", moving_square(3))
    with pytest.raises(MediaError, match="exact answers"):
        open_source(folder)
