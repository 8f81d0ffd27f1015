"""One suite for every backend that `traceworld doctor` lists: with tiny weights of the real class, or with a stand-in that
keeps the recorded contract of a package installed from git. A backend that is listed and not covered fails the first test."""

from __future__ import annotations

import backend_scene as scene
import backend_stubs
import numpy as np
import pytest
import tiny_weights
from scenes import K as CARD_K
from scenes import card_scene
from scripted_chat import serving_caption

from traceworld import doctor
from traceworld.perception import registry
from traceworld.perception.chunks import EntityBackend, FrameChunk, PointQueries, PointTracker
from traceworld.perception.conventions import Native
from traceworld.perception.depth_source import ImageDepth
from traceworld.perception.interfaces import CaptionBackend, CaptionRequest, FeatureBackend, GeometryBackend, PartMotion

NO_WEIGHTS = {"embedded", "template"}
TINY = set(tiny_weights.MAKERS)
STUBBED = {
    "vggt", "vggt-commercial", "mapanything", "mapanything-apache", "da3", "da3-nested", "da3-metric", "moge2",
    "tapnext", "bootstapir", "cotracker3", "tapip3d", "spatracker2",
}  # fmt: skip
SERVED = {"openai"}
OPTIONS = {
    "dinov2": {"long_side": 56}, "dinov3": {"long_side": 64}, "depth-anything-v2": {"long_side": 56},
    "smolvlm2": {"max_new_tokens": 6}, "qwen-vl": {"max_new_tokens": 6}, "tapip3d": {"trust_pickle": True, "device": "cpu"},
}  # fmt: skip
EXACT = STUBBED - {
    "moge2",
    "da3-metric",
}  # poses of these two come from the odometry, which sees nothing in plain pictures


def names(kind: str) -> list[str]:
    return [spec.name for spec in registry.specs(kind)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture
def make(monkeypatch, folder):
    """A backend through the registry, as a user makes it."""

    def made(kind: str, name: str):
        if name in NO_WEIGHTS:
            return registry.create(kind, name)
        if name in TINY:
            place = str(folder / name) if (folder / name).exists() else tiny_weights.save(name, folder)
        else:
            backend_stubs.install(monkeypatch, folder)
            place = backend_stubs.weights_for(name, folder)
        return registry.create(kind, f"{name}:{place}", **OPTIONS.get(name, {}))

    yield made
    backend_stubs.forget_clones()


def test_every_backend_that_doctor_lists_is_covered_here():
    listed = {(f.group.removeprefix("backend "), f.name) for f in doctor._backends()}
    assert listed == {(spec.kind, spec.name) for spec in registry.specs()}
    assert {name for _, name in listed} == NO_WEIGHTS | TINY | STUBBED | SERVED
    assert {kind for kind, _ in listed} == set(registry.KINDS)  # each kind has its tests below


@pytest.mark.parametrize(("kind", "name"), [(s.kind, s.name) for s in registry.specs() if s.name not in SERVED])
def test_it_says_what_it_is(make, kind, name):
    backend, spec = make(kind, name), registry.find(kind, name)
    assert (backend.info.kind, backend.info.name) == (kind, name)
    assert backend.info.licence
    if name not in NO_WEIGHTS:
        assert backend.info.weights.endswith(name)
        assert backend.info.licence_class == "user"  # weights of the user's own
        assert isinstance(spec.native, Native) or kind == "captions"
    if kind == "geometry" and name != "embedded":
        assert backend.info.metric == (spec.gives.scale == "metric")
    if hasattr(backend, "native") and name != "da3-nested":
        assert backend.native == spec.native  # doctor and adapter speak of the same conventions


# ---------------------------------------------------------------------- trackers


def card_chunk(count: int) -> FrameChunk:
    frames, _ = card_scene(count)
    return FrameChunk(
        np.stack([f.image for f in frames]),
        np.stack([f.depth_m for f in frames]),
        CARD_K,
        np.repeat(np.eye(4)[None], count, 0),
    )


def card_queries(count: int) -> PointQueries:
    xy = np.array([[80.0, 100.0], [110.0, 120.0], [95.0, 140.0], [30.0, 40.0], [250.0, 200.0], [100.0, 110.0]])
    frame = np.arange(len(xy)) % count
    z = np.array([1.0, 1.0, 1.0, 1.5, 1.5, 1.0])
    rays = (xy - CARD_K[:2, 2]) / CARD_K[[0, 1], [0, 1]]
    return PointQueries(frame, xy, np.concatenate([rays * z[:, None], z[:, None]], 1))


def world(name: str, count: int) -> tuple[FrameChunk, PointQueries]:
    """Pictures that this backend can make something of."""
    if name in STUBBED:
        return scene.chunk(count), scene.queries(count)
    return card_chunk(count), card_queries(count)


def assert_consistent(tracks, chunk: FrameChunk, queries: PointQueries):
    """Shapes, query points kept, and: the projection of the world track is the 2D track."""
    frames, count = len(chunk), len(queries)
    assert tracks.xyz_world.shape == (frames, count, 3)
    assert tracks.visible.shape == tracks.valid.shape == tracks.confidence.shape == (frames, count)
    assert not (tracks.visible & ~tracks.valid).any()
    assert np.isfinite(tracks.xyz_world[tracks.valid]).all()
    assert ((tracks.confidence >= 0) & (tracks.confidence <= 1)).all()
    rows = np.arange(count)
    np.testing.assert_allclose(tracks.xyz_world[queries.frame, rows], queries.xyz_world, atol=1e-5)
    np.testing.assert_allclose(tracks.xy_px[queries.frame, rows], queries.xy_px, atol=1e-2)
    assert tracks.visible[queries.frame, rows].all()
    cam = (
        np.einsum("tij,tnj->tni", chunk.cam_from_world[:, :3, :3], tracks.xyz_world)
        + chunk.cam_from_world[:, None, :3, 3]
    )
    projected = cam[..., :2] / cam[..., 2:] * chunk.K[[0, 1], [0, 1]] + chunk.K[:2, 2]
    np.testing.assert_allclose(projected[tracks.valid], tracks.xy_px[tracks.valid], atol=1e-2)


@pytest.mark.parametrize("name", names("tracking"))
def test_tracker(make, name):
    tracker = make("tracking", name)
    assert isinstance(tracker, PointTracker)
    chunk, queries = world(name, scene.FRAMES)
    tracks = tracker.track(chunk, queries)
    assert_consistent(tracks, chunk, queries)
    again = tracker.track(chunk, queries)  # determinism, and no memory of the call before
    for field in ("xyz_world", "xy_px", "visible", "valid", "confidence"):
        np.testing.assert_array_equal(getattr(again, field), getattr(tracks, field))
    order = np.random.default_rng(0).permutation(len(queries))
    turned = tracker.track(chunk, queries.take(order))
    for field in ("xyz_world", "xy_px", "visible", "valid"):
        np.testing.assert_allclose(getattr(turned, field), getattr(tracks, field)[:, order], atol=1e-5)
    if name in EXACT:
        xyz, xy, visible = scene.truth(queries, len(chunk))
        assert (tracks.visible == visible).mean() > 0.97  # points within rounding of an edge may differ
        both = tracks.visible & visible
        assert both.mean() > 0.4
        assert np.abs(tracks.xyz_world - xyz)[both].max() < 0.02
        assert np.abs(tracks.xy_px - xy)[both].max() < 0.05


@pytest.mark.parametrize("count", [1, 2, 3, scene.FRAMES])
@pytest.mark.parametrize("name", names("tracking"))
def test_tracker_of_short_clips_and_without_queries(make, name, count):
    """T = 1, clips shorter than any model's window, and nothing to follow."""
    tracker = make("tracking", name)
    chunk, queries = world(name, count)
    tracks = tracker.track(chunk, queries)
    assert_consistent(tracks, chunk, queries)
    if name in STUBBED:
        both = tracks.visible & scene.truth(queries, count)[2]
        assert both.mean() > 0.4
        assert np.abs(tracks.xyz_world - queries.xyz_world)[both].max() < 0.02
    nothing = tracker.track(chunk, queries.take(np.zeros(0, np.int64)))
    assert nothing.xyz_world.shape == (count, 0, 3)
    assert nothing.visible.shape == (count, 0)
    one = tracker.track(chunk, queries.take(np.zeros(1, np.int64)))
    assert_consistent(one, chunk, queries.take(np.zeros(1, np.int64)))


# ---------------------------------------------------------------------- geometry


@pytest.mark.parametrize("name", names("geometry"))
@pytest.mark.parametrize("count", [1, 2, 6])
def test_geometry(make, name, count):
    backend = make("geometry", name)
    assert isinstance(backend, GeometryBackend)
    assert backend.max_frames is None or backend.max_frames >= 8
    for K in (scene.K, None):
        found = backend.reconstruct(scene.frames(count), K)
        assert found.depth_m.shape == (count, scene.HEIGHT, scene.WIDTH)
        assert found.depth_m.dtype == np.float32
        assert found.K.shape == (count, 3, 3)
        assert found.cam_from_world.shape == (count, 4, 4)
        known = found.depth_m[np.isfinite(found.depth_m)]
        assert len(known)
        assert (known > 0).all()
        turns = found.cam_from_world[:, :3, :3]
        np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.repeat(np.eye(3)[None], count, 0), atol=1e-5)
        again = backend.reconstruct(scene.frames(count), K)
        np.testing.assert_array_equal(again.depth_m, found.depth_m)
        np.testing.assert_array_equal(again.cam_from_world, found.cam_from_world)
        if name in STUBBED:
            assert_true_geometry(found, count, name in EXACT, known_view=K is not None or name != "da3-metric")


def assert_true_geometry(found, count: int, with_poses: bool, known_view: bool):
    """Depth, intrinsics and relative poses are those of the scene, up to one scale if the backend says so."""
    truth = np.stack([scene.depth(t) for t in range(count)])
    ratio = found.depth_m / truth
    scale = float(np.nanmedian(ratio))
    assert np.nanmax(np.abs(ratio / scale - 1)) < 0.03  # nearest pixel of another resolution
    if found.metric and known_view:
        assert abs(scale - 1) < 0.01
    if known_view:
        np.testing.assert_allclose(found.K, np.repeat(scene.K[None], count, 0), atol=1e-2)
    if with_poses:
        relative = found.cam_from_world @ np.linalg.inv(found.cam_from_world[0])
        expected = np.stack([scene.pose(t) @ np.linalg.inv(scene.pose(0)) for t in range(count)])
        expected[:, :3, 3] *= scale
        np.testing.assert_allclose(relative, expected, atol=2e-3)


@pytest.mark.parametrize("name", ["mapanything", "da3", "da3-nested"])
def test_geometry_that_takes_known_cameras_gets_them(make, name):
    """The stand-ins check direction and resolution of what they are given."""
    found = make("geometry", name).reconstruct(scene.frames(4, posed=True), scene.K)
    assert_true_geometry(found, 4, True, True)


@pytest.mark.parametrize("name", ["moge2", "da3-metric", "depth-anything-v2"])
def test_depth_of_single_pictures(make, name):
    backend = make("geometry", name)
    assert isinstance(backend, ImageDepth)
    depth, K = backend.depth_of(scene.image(3), scene.K)
    assert depth.shape == (scene.HEIGHT, scene.WIDTH)
    assert (K is None) == (name != "moge2")
    if name == "moge2":
        assert np.isnan(depth[:, :3]).all()  # what it masks out is unknown, not infinite
        np.testing.assert_allclose(K, scene.K, atol=1e-3)


# ---------------------------------------------------------------------- features, entities, captions


@pytest.mark.parametrize("name", names("features"))
def test_features(make, name):
    backend = make("features", name)
    assert isinstance(backend, FeatureBackend)
    frame = card_scene(1)[0][0]
    found = backend.describe(frame.image, frame.depth_m)
    assert found.dtype == np.float32
    assert found.ndim == 3
    assert np.isfinite(found).all()
    rows, columns = found.shape[:2]
    assert rows / columns == pytest.approx(240 / 320, abs=0.26)  # the grid covers the whole picture
    np.testing.assert_array_equal(backend.describe(frame.image, frame.depth_m), found)
    assert backend.describe(frame.image).shape == found.shape  # without depth
    changed = frame.image.copy()
    changed[:120] = 255 - changed[:120]
    assert np.abs(backend.describe(changed, frame.depth_m) - found).max() > 1e-3
    if name != "embedded":
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", names("entities"))
def test_entities(make, name, count):
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.01, (count, 12, 16, 4)).astype(np.float32)
    features[:, 4:8, 5:9] += 5.0
    motion = np.zeros((count, 12, 16), bool)
    motion[:, 4:8, 5:9] = True
    images = np.stack([frame.image for frame in card_scene(count)[0]])

    def found():
        backend = make("entities", name)
        assert isinstance(backend, EntityBackend)
        first = backend.find(images, features, motion)
        return first, backend.find(images, features, motion)

    maps, later = found()
    assert maps.labels.shape == (count, 12, 16)
    assert maps.labels.min() >= -1
    assert maps.moving
    assert set(np.unique(maps.labels)) - {-1} <= set(maps.coverage())
    assert later.moving >= maps.moving  # identities go on from chunk to chunk
    again, _ = found()
    np.testing.assert_array_equal(again.labels, maps.labels)
    backend = make("entities", name)
    backend.find(images, features, motion)
    backend.start()  # a new clip: the same pictures get the same identities as at first
    np.testing.assert_array_equal(backend.find(images, features, motion).labels, maps.labels)
    none = make("entities", name).find(images, features, np.zeros_like(motion))
    assert none.labels.shape == maps.labels.shape


def event(images=(), **changes) -> CaptionRequest:
    part = PartMotion(0, 5, (0.1, 0.0, 0.0), 0.12, True, (0.0, 0.0), (0.5, 0.0))
    return CaptionRequest((part,), 1.0, 3.0, 0, 2, images=images, **changes)


@pytest.mark.parametrize("name", [name for name in names("captions") if name not in SERVED])
def test_captions(make, name):
    backend = make("captions", name)
    assert isinstance(backend, CaptionBackend)
    pictures = tuple(frame.image for frame in card_scene(3)[0])
    mask = np.zeros(pictures[0].shape[:2], bool)
    mask[100:140, 60:120] = True
    request = event(pictures if backend.needs_images else (), motion_mask=mask)
    caption = backend.caption(request)
    for part in (caption.caption, caption.before, caption.interaction, caption.change, caption.source):
        assert part
    assert backend.caption(request) == caption
    assert backend.merge([caption, caption], "tidy up").caption
    if name != "template":  # random weights say nothing that could be read: that must be marked, and kept
        assert caption.source == "template (fallback)"
        assert len(caption.extra["raw"]) == 2
        turned = event(tuple(255 - p for p in pictures))
        assert backend.caption(turned).extra["raw"] != caption.extra["raw"]  # it looks at the pictures


@pytest.mark.parametrize("name", sorted(SERVED))
def test_captions_of_a_server(name, tmp_path):
    with serving_caption() as (url, script):
        backend = registry.create("captions", f"{name}:some/model@{url}/v1#cache={tmp_path}")
        assert isinstance(backend, CaptionBackend)
        pictures = tuple(frame.image for frame in card_scene(3)[0])
        caption = backend.caption(event(pictures))
        assert caption.source == "openai:some/model"
        assert backend.caption(event(pictures)) == caption
        assert backend.merge([caption, caption]).caption
        assert len(script.requests) == 2  # the second question came from the cache
