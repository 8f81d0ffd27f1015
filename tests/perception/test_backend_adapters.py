"""What adapters refuse and how they say it; conformance is in `test_backend_conformance`."""

import backend_scene as scene
import backend_stubs
import numpy as np
import pytest
import tiny_weights
import torch
from scenes import ListSource

from traceworld.errors import CheckpointError, ConfigError, InvalidInputError, MissingExtraError, MissingWeightsError
from traceworld.perception import registry
from traceworld.perception.backends import loading
from traceworld.perception.backends.vlm import _written_out
from traceworld.perception.chunks import FrameChunk
from traceworld.perception.depth_source import DepthSource
from traceworld.perception.weights import Weights


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    backend_stubs.install(monkeypatch, tmp_path)
    yield tmp_path
    backend_stubs.forget_clones()


def test_inverse_depth_of_unknown_scale_is_refused(tmp_path):
    place = tiny_weights.relative_depth_anything(tmp_path)
    with pytest.raises(CheckpointError, match="metric checkpoint"):
        registry.create("geometry", f"depth-anything-v2:{place}")


def test_weights_of_another_model_are_refused_with_its_name(tmp_path):
    place = tiny_weights.save("depth-anything-v2", tmp_path)
    with pytest.raises(CheckpointError, match="depth_anything"):
        registry.create("features", f"dinov2:{place}")


def test_a_pickle_is_not_loaded_unless_the_user_trusts_it(stubs):
    place = backend_stubs.weights_for("tapip3d", stubs)
    with pytest.raises(ConfigError, match="trust_pickle=true"):
        registry.create("tracking", f"tapip3d:{place}")
    assert registry.create("tracking", f"tapip3d:{place}#trust_pickle=true&device=cpu").info.name == "tapip3d"


class Mischief:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: torch.save({"state_dict": Mischief()}, path), "does not unpickle"),
        (lambda path: path.write_bytes(b"nothing like a checkpoint"), "cannot be read|does not unpickle"),
        (lambda path: torch.save({"step": 3}, path), "no tensors"),
        (lambda path: torch.save({"weight": torch.ones(4, 4)}, path), "does not fit"),
    ],
)
def test_damaged_or_foreign_checkpoints_are_typed_errors(stubs, write, words):
    path = stubs / "c.pt"
    write(path)
    with pytest.raises(CheckpointError, match=words):
        registry.create("tracking", f"bootstapir:{path}")


def test_a_clone_whose_module_names_are_taken_is_told_apart(stubs):
    place = backend_stubs.weights_for("spatracker2", stubs)
    registry.create("tracking", f"spatracker2:{place}")
    other = stubs / "other" / "models" / "SpaTrackV2" / "models"
    other.mkdir(parents=True)
    (other / "predictor.py").write_text("")
    with pytest.raises(ConfigError, match="one backend of this sort per process"):
        loading.package("models.SpaTrackV2.models.predictor", "git clone …", within=stubs / "other")


def test_missing_package_weights_and_device_are_typed():
    with pytest.raises(MissingExtraError, match="pip install x"):
        loading.package("no_such_package_at_all", "pip install x")
    with pytest.raises(MissingWeightsError, match="check the path"):
        loading.path_of("/no/such/folder")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="CUDA"):
            loading.pick_device("cuda")


@pytest.mark.parametrize("name", ["tapip3d", "spatracker2"])
def test_trackers_in_3d_need_depth(stubs, name):
    place = backend_stubs.weights_for(name, stubs)
    options = "#trust_pickle=true&device=cpu" if name == "tapip3d" else ""
    tracker = registry.create("tracking", f"{name}:{place}{options}")
    chunk = scene.chunk(4)
    without = FrameChunk(chunk.images, None, chunk.K, chunk.cam_from_world)
    with pytest.raises(InvalidInputError, match="no depth"):
        tracker.track(without, scene.queries(4))
    depth = chunk.depth_m.copy()
    depth[2] = np.nan
    with pytest.raises(InvalidInputError, match="fewer than 4"):
        tracker.track(FrameChunk(chunk.images, depth, chunk.K, chunk.cam_from_world), scene.queries(4))


def test_fewer_points_at_a_time_when_memory_is_full(stubs, monkeypatch):
    tracker = registry.create("tracking", f"cotracker3:{backend_stubs.weights_for('cotracker3', stubs)}")
    chunk, queries = scene.chunk(), scene.queries()
    whole = tracker.track(chunk, queries)
    follow, sizes = tracker.follow, []

    def small(chunk, queries):
        sizes.append(len(queries))
        if len(queries) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return follow(chunk, queries)

    monkeypatch.setattr(tracker, "follow", small)
    parts = tracker.track(chunk, queries)
    assert sizes == [9, 4, 2, 2, 5, 2, 3]
    np.testing.assert_array_equal(parts.xyz_world, whole.xyz_world)
    np.testing.assert_array_equal(parts.visible, whole.visible)

    def broken(chunk, queries):
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(tracker, "follow", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        tracker.track(chunk, queries)


def test_pictures_are_written_out_where_the_template_puts_them():
    assert _written_out("a<i>b<i>c", "<i>", ["11", "22"]) == "a11b22c"
    with pytest.raises(CheckpointError, match="1 placeholders for 2"):
        _written_out("a<i>b", "<i>", ["1", "2"])


def test_hub_weights_say_where_they_are_and_what_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    weights = Weights("a/b", file="x.pth", revision="abc", whole=False)
    assert weights.command() == "hf download a/b x.pth --revision abc"
    assert weights.find() is None
    assert Weights(str(tmp_path)).find() == tmp_path
    assert Weights(str(tmp_path)).found_revision() is None
    assert Weights("not a hub id at all!").find() is None


def plain(K, known):
    """The scene as a film without depth."""
    source = ListSource(scene.frames(6, with_depth=False), K)
    source.report = {"intrinsics": known}
    return source


def test_single_image_depth_makes_an_rgbd_source(stubs):
    backend = registry.create("geometry", f"moge2:{backend_stubs.weights_for('moge2', stubs)}")
    assumed = np.array([[60.0, 0, 55.5], [0, 60.0, 41.5], [0, 0, 1]])
    estimated = DepthSource(plain(assumed, "assumed"), backend)
    np.testing.assert_allclose(estimated.K, scene.K, atol=1e-3)  # the model's own, better than an assumed one
    given = DepthSource(plain(scene.K, "given"), backend)
    assert given.K is not None
    np.testing.assert_array_equal(given.K, scene.K)
    assert given.metric_depth
    for t, frame in enumerate(given):
        assert frame.cam_from_world is None  # left to the odometry
        known = np.isfinite(frame.depth_m)
        np.testing.assert_allclose(frame.depth_m[known], scene.depth(t)[known], rtol=1e-5)
    assert given.report["geometry"] == {"backend": "moge2"}
