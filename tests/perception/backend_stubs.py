"""Stand-ins for packages that are installed from git: their documented calls, shapes, dtypes and conventions
(reference: their READMEs and loaders), answering for the world of `backend_scene`. What a model is given wrongly, it answers
wrongly: pictures of another range name another frame, points in another order lie elsewhere."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import backend_scene as scene
import numpy as np
import torch

_MEAN, _STD = (torch.tensor(v) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def _frame_numbers(levels: torch.Tensor) -> list[int]:
    """Frame per picture from its mean level (0..255)."""
    numbers = levels / scene.LEVEL
    assert (numbers - numbers.round()).abs().max() < 0.05, "the pictures are not in the range that the model wants"
    return [int(n) for n in numbers.round()]


def _is_there(path) -> None:
    assert Path(path).exists(), path


class _Hub(torch.nn.Module):
    """`from_pretrained` of a folder or file on this machine."""

    @classmethod
    def from_pretrained(cls, path):
        _is_there(path)
        model = cls()
        model.path = str(path)
        return model


# ---------------------------------------------------------------------- geometry


class VGGT(_Hub):
    """images [1,S,3,H,W] in 0..1 → pose_enc [1,S,9], depth [1,S,H,W,1], depth_conf; the scale is normalised per pass."""

    def forward(self, images):
        assert images.ndim == 5
        assert images.shape[2] == 3
        assert not any(side % 14 for side in images.shape[3:])
        numbers = _frame_numbers(images[0].mean((1, 2, 3)) * 255)
        height, width = images.shape[3:]
        found = np.stack([scene.depth(t, width, height) for t in numbers])
        scale = 1.0 / found.mean()
        code = torch.zeros(1, len(numbers), 9)
        code[0, :, 0], code[0, :, 1] = torch.tensor(numbers), scale
        found = torch.from_numpy(found * scale).float()
        return {"pose_enc": code, "depth": found[None, ..., None], "depth_conf": 1 + torch.rand(1, *found.shape)}


def pose_encoding_to_extri_intri(code, size):
    """[1,S,9], (H, W) → world-to-camera [1,S,3,4] with the first camera as the world, intrinsics [1,S,3,3] px."""
    numbers, scale = code[0, :, 0].int().tolist(), float(code[0, 0, 1])
    first = np.linalg.inv(scene.pose(numbers[0]))
    poses = np.stack([scene.pose(t) @ first for t in numbers])
    poses[:, :3, 3] *= scale
    K = np.stack([scene.intrinsics(size[1], size[0])] * len(numbers))
    return torch.from_numpy(poses[None, :, :3]).float(), torch.from_numpy(K[None]).float()


class MapAnything(_Hub):
    """List of views (img [1,3,H,W] normalised as for DINOv2, optional intrinsics, depth_z, camera_poses) → list of dicts."""

    def infer(self, views, memory_efficient_inference=False):
        assert all(view["data_norm_type"] == ["dinov2"] and view["img"].shape[:2] == (1, 3) for view in views)
        numbers = _frame_numbers(
            torch.stack([((v["img"][0].permute(1, 2, 0) * _STD + _MEAN) * 255).mean() for v in views])
        )
        height, width = views[0]["img"].shape[2:]
        posed = "camera_poses" in views[0]
        for view, t in zip(views, numbers, strict=True):
            if "depth_z" in view:
                assert "intrinsics" in view, "depth needs intrinsics"
                assert view["depth_z"].shape == (1, height, width, 1)
                assert view["is_metric_scale"].all()
            if posed:
                assert np.allclose(view["camera_poses"][0], np.linalg.inv(scene.pose(t)), atol=1e-5), "camera to world"
            if "intrinsics" in view:
                assert np.allclose(view["intrinsics"][0], scene.intrinsics(width, height), atol=1e-3)
        world = np.eye(4) if posed else scene.pose(numbers[0])
        return [self._view(t, width, height, world) for t in numbers]

    def _view(self, t, width, height, world):
        pose = world @ np.linalg.inv(scene.pose(t))
        mask = torch.ones(1, height, width, 1)
        mask[:, :2] = 0
        found = torch.from_numpy(scene.depth(t, width, height)).float()
        return {
            "depth_z": found[None, ..., None],
            "camera_poses": torch.from_numpy(pose)[None].float(),
            "intrinsics": torch.from_numpy(scene.intrinsics(width, height))[None].float(),
            "mask": mask,
            "conf": torch.ones(1, height, width),
        }


class DepthAnything3(_Hub):
    """inference(images uint8, extrinsics w2c [N,4,4], intrinsics [N,3,3], process_res) → depth, conf [N,h,w], w2c [N,3,4],
    intrinsics at the processed size. The METRIC checkpoint answers for a focal length of 300 px and knows no cameras."""

    def inference(self, image, extrinsics=None, intrinsics=None, process_res=504):
        assert all(each.dtype == np.uint8 and each.shape[2] == 3 for each in image)
        numbers = _frame_numbers(torch.tensor([float(each.mean()) for each in image]))
        width, height = process_res // 14 * 14, round(process_res * scene.HEIGHT / scene.WIDTH / 14) * 14
        K = scene.intrinsics(width, height)
        found = np.stack([scene.depth(t, width, height) for t in numbers]).astype(np.float32)
        answer = types.SimpleNamespace(depth=found, conf=np.ones_like(found), extrinsics=None, intrinsics=None)
        if "metric" in self.path and "nested" not in self.path:
            answer.depth = found * np.float32(300.0 / ((K[0, 0] + K[1, 1]) / 2))
            return answer
        scale = 1.0 if "nested" in self.path else 0.7 / found.mean()
        if extrinsics is None:
            poses = np.stack([scene.pose(t) @ np.linalg.inv(scene.pose(numbers[0])) for t in numbers])
        else:
            assert extrinsics.shape[1:] == (4, 4)
            assert np.allclose(extrinsics, [scene.pose(t) for t in numbers], atol=1e-5), "world to camera"
            poses = extrinsics.astype(np.float64)
        poses[:, :3, 3] *= scale
        answer.depth, answer.extrinsics = found * np.float32(scale), poses[:, :3]
        answer.intrinsics = np.stack([K] * len(numbers))
        return answer


class MoGeModel(_Hub):
    """infer(image [3,H,W] in 0..1, fov_x degrees or None) → depth, mask [H,W], intrinsics in shares of the image."""

    def infer(self, image, fov_x=None):
        assert image.ndim == 3
        t = _frame_numbers((image.mean() * 255)[None])[0]
        height, width = image.shape[1:]
        if fov_x is not None:
            assert abs(np.tan(np.radians(fov_x) / 2) - width / (2 * scene.K[0, 0])) < 1e-9
        K = scene.intrinsics(width, height, half=True) / np.array([[width], [height], [1.0]])
        mask = torch.ones(height, width, dtype=torch.bool)
        mask[:, :3] = False
        found = torch.from_numpy(scene.depth(t)).float().masked_fill(~mask, float("inf"))
        return {"depth": found, "mask": mask, "intrinsics": torch.from_numpy(K).float(), "points": None}


# ---------------------------------------------------------------------- trackers


def _paths(numbers, frame, xy):
    """House pixels [T,N,2] and visibility [T,N] of points asked for at positions `frame` of the video."""
    world = np.stack([scene.lift(p[None], numbers[t])[0] for p, t in zip(xy, frame, strict=True)])
    seen = np.stack([scene.see(world, t)[:, :2] for t in numbers])
    return seen, ~scene.hidden(seen[..., 0])


class CoTrackerPredictor(torch.nn.Module):
    """video [1,T,3,H,W] in 0..255, queries [1,N,3] = (t, x, y) px → tracks [1,T,N,2], visibility [1,T,N] bool."""

    def __init__(self, checkpoint, offline=True):
        super().__init__()
        _is_there(checkpoint)

    def forward(self, video, queries=None, backward_tracking=False):
        assert video.shape[1] >= 16, "answers zeros for short clips"
        numbers = _frame_numbers(video[0].mean((1, 2, 3)))
        asked = queries[0].double().numpy()
        xy, seen = _paths(numbers, asked[:, 0].astype(int), asked[:, 1:])
        before = np.arange(len(numbers))[:, None] < asked[:, 0]
        if not backward_tracking:
            xy[before], seen[before] = 0, False
        return torch.from_numpy(xy)[None].float(), torch.from_numpy(seen)[None]


class _Square(torch.nn.Module):
    """256 × 256 pictures in −1..1, (t, y, x) with pixel centres at ½."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, 3))

    def _numbers(self, video):
        assert video.shape[2:] == (256, 256, 3)
        return _frame_numbers((video[0].mean((1, 2, 3)) + 1) * 127.5)

    def _house(self, tyx):
        return np.stack([tyx[:, 2] * scene.WIDTH / 256, tyx[:, 1] * scene.HEIGHT / 256], 1) - 0.5

    def _native(self, xy):
        return (xy + 0.5) * 256 / np.array([scene.WIDTH, scene.HEIGHT])


class TAPIR(_Square):
    """video [1,T,256,256,3], query_points [1,N,3] → tracks [1,N,T,2] (x, y), logits occlusion and expected_dist [1,N,T]."""

    def __init__(self, pyramid_level=0):
        super().__init__()

    def forward(self, video, query_points):
        asked = query_points[0].double().numpy()
        xy, seen = _paths(self._numbers(video), asked[:, 0].astype(int), self._house(asked))
        logit = torch.from_numpy(np.where(seen, -5.0, 5.0)).T[None].float()
        tracks = torch.from_numpy(self._native(xy)).permute(1, 0, 2)[None].float()
        return {"tracks": tracks, "occlusion": logit, "expected_dist": torch.full_like(logit, -5.0)}


class TAPNext(_Square):
    """(video [1,1,256,256,3], query_points or state) → tracks [1,1,N,2] (y, x), logits, visible_logits, state; causal."""

    def __init__(self, image_size):
        super().__init__()
        assert image_size == (256, 256)

    def forward(self, video, query_points=None, state=None):
        step, asked, seen_numbers = state or (0, query_points[0].double().numpy(), [])
        numbers = [*seen_numbers, *self._numbers(video)]
        assert len(numbers) == step + 1, "one frame at a time"
        begun = asked[:, 0] <= step
        xy, seen = np.zeros((len(asked), 2)), np.zeros(len(asked), bool)
        if begun.any():
            path, visible = _paths(numbers, asked[begun, 0].astype(int), self._house(asked[begun]))
            xy[begun], seen[begun] = path[-1], visible[-1]
        tracks = torch.from_numpy(self._native(xy)[:, ::-1].copy())[None, None].float()
        logits = torch.from_numpy(np.where(seen, 5.0, -5.0))[None, None, :, None].float()
        return tracks, None, logits, (step + 1, asked, numbers)


class Tapip3dModel(torch.nn.Module):
    seq_len = 16

    def set_image_size(self, size):
        self.image_size = size


def tapip3d_load(path):
    _is_there(path)
    return Tapip3dModel()


def tapip3d_inference(
    *, model, video, depths, intrinsics, extrinsics, query_point, num_iters=6, grid_size=8, bidrectional=True,
    vis_threshold=0.9,
):  # fmt: skip
    """video [T,3,H,W] in 0..1, depths [T,H,W] 0 = invalid, intrinsics, extrinsics w2c, query (t, X, Y, Z) → [T,N,3], [T,N];
    clips of half a window or less get constants; the output is squeezed."""
    height, width = video.shape[2:]
    assert model.image_size == (height, width)
    assert depths.shape == (len(video), height, width)
    assert torch.isfinite(depths).all()
    numbers = _frame_numbers(video.mean((1, 2, 3)) * 255)
    assert np.allclose(extrinsics, [scene.pose(t) for t in numbers], atol=1e-5), "world to camera"
    assert np.allclose(intrinsics, scene.intrinsics(width, height), atol=1e-3)
    asked = query_point.double().numpy()
    coordinates = np.repeat(asked[None, :, 1:], len(numbers), 0)
    seen = ~scene.hidden(np.stack([scene.see(asked[:, 1:], t)[:, 0] for t in numbers]))
    if len(numbers) <= model.seq_len // 2:
        seen[:] = False
    if not bidrectional:
        seen &= np.arange(len(numbers))[:, None] >= asked[:, 0]
    return torch.from_numpy(coordinates).float().squeeze(), torch.from_numpy(seen).squeeze()


class Predictor(_Hub):
    """video [T,3,H,W] in 0..255, depth, intrs, extrs c2w, queries (t, x, y) → nine values; track3d [T,N,6] in the camera of
    each frame, at a scale of its own."""

    def forward(
        self, video, depth=None, unc_metric=None, intrs=None, extrs=None, queries=None, iters_track=4, fps=1,
        full_point=False, fixed_cam=False, query_no_BA=True, stage=1, support_frame=0, replace_ratio=0.2,
    ):  # fmt: skip
        height, width = video.shape[2:]
        numbers = _frame_numbers(video.mean((1, 2, 3)))
        assert np.allclose(extrs, [np.linalg.inv(scene.pose(t)) for t in numbers], atol=1e-5), "camera to world"
        assert np.allclose(intrs, scene.intrinsics(width, height), atol=1e-3)
        asked = np.asarray(queries, np.float64)
        xy = (asked[:, 1:] + 0.5) * [scene.WIDTH / width, scene.HEIGHT / height] - 0.5
        world = np.stack([scene.lift(p[None], numbers[int(t)])[0] for p, t in zip(xy, asked[:, 0], strict=True)])
        cam = np.stack([world @ scene.pose(t)[:3, :3].T + scene.pose(t)[:3, 3] for t in numbers])
        seen = ~scene.hidden(np.stack([scene.see(world, t)[:, 0] for t in numbers]))
        track3d = torch.from_numpy(np.concatenate([1.7 * cam, cam], -1)).float()
        visible = torch.from_numpy(seen).float()[..., None]
        return None, None, None, None, track3d, None, visible, 0.9 * visible, video


MODULES = {
    "vggt.models.vggt": {"VGGT": VGGT},
    "vggt.utils.pose_enc": {"pose_encoding_to_extri_intri": pose_encoding_to_extri_intri},
    "mapanything.models": {"MapAnything": MapAnything},
    "depth_anything_3.api": {"DepthAnything3": DepthAnything3},
    "moge.model.v2": {"MoGeModel": MoGeModel},
    "cotracker.predictor": {"CoTrackerPredictor": CoTrackerPredictor},
    "tapnet.torch.tapir_model": {"TAPIR": TAPIR},
    "tapnet.tapnext.tapnext_torch": {"TAPNext": TAPNext},
}
CLONES = {
    "TRACEWORLD_TAPIP3D": {
        "utils/inference_utils.py": "from backend_stubs import tapip3d_inference as inference, tapip3d_load as load_model\n"
    },
    "TRACEWORLD_SPATRACKER2": {"models/SpaTrackV2/models/predictor.py": "from backend_stubs import Predictor\n"},
}


def install(monkeypatch, folder: Path) -> None:
    """Make the packages importable and the clones findable for one test."""
    for name, contents in MODULES.items():
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            path = ".".join(parts[:i])
            if path not in sys.modules:
                module = types.ModuleType(path)
                module.__path__ = []
                module.__spec__ = types.SimpleNamespace(name=path, origin=None, submodule_search_locations=[])
                monkeypatch.setitem(sys.modules, path, module)
        vars(sys.modules[name]).update(contents)
    for name in [n for n in sys.modules if n.split(".")[0] in ("utils", "models")]:
        monkeypatch.delitem(sys.modules, name)
    for variable, files in CLONES.items():
        clone = folder / variable.lower()
        for name, text in files.items():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_text(text)
        monkeypatch.setenv(variable, str(clone))


def forget_clones() -> None:
    """Drop the modules of clones, whose names are no package's."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("utils", "models")]:
        del sys.modules[name]


def weights_for(name: str, folder: Path) -> str:
    """Something on disk that the stand-in of this backend can be loaded from."""
    place = folder / name
    if name in ("tapnext", "bootstapir"):
        torch.save({"state_dict": {"tapnext.weight" if name == "tapnext" else "weight": torch.ones(2, 3)}}, place)
    elif name in ("cotracker3", "tapip3d", "moge2"):
        place.write_bytes(b"stand-in")
    else:
        place.mkdir(exist_ok=True)
    return str(place)
