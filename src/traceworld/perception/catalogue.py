"""Every backend that comes with the library, and the presets made of them. Licences as of November 2026: check before use."""

from __future__ import annotations

from traceworld.errors import ConfigError
from traceworld.perception.backend_spec import BackendSpec, Gives
from traceworld.perception.conventions import Native
from traceworld.perception.weights import Weights

_HERE = "traceworld.perception"
_BACKENDS = f"{_HERE}.backends"
_HF = "pip install 'traceworld[vlm]'"
_GIT = "pip install git+https://github.com"

EMBEDDED = (
    BackendSpec(
        "features",
        "embedded",
        f"{_HERE}.features:EmbeddedFeatures",
        "Apache-2.0",
        "colour, gradient and depth statistics per cell; no weights",
    ),
    BackendSpec(
        "geometry",
        "embedded",
        f"{_HERE}.odometry:EmbeddedGeometry",
        "Apache-2.0",
        "sensor depth with RGB-D odometry behind a static-camera gate; no weights",
        gives=Gives("input", poses=True),
    ),
    BackendSpec(
        "tracking",
        "embedded",
        f"{_HERE}.passes:EmbeddedPointTracker",
        "Apache-2.0",
        "Lucas-Kanade and dense flow with checks in 3D; no weights",
        gives=Gives("input", tracks="world", occlusion=True),
    ),
    BackendSpec(
        "entities",
        "embedded",
        f"{_HERE}.entities:EmbeddedEntities",
        "Apache-2.0",
        "motion components cut by feature clusters, matched over time; no weights",
    ),
    BackendSpec(
        "captions",
        "template",
        f"{_HERE}.captions:TemplateCaptioner",
        "Apache-2.0",
        "sentences filled in from the traces: direction, distance, speed; sees no pictures",
    ),
)

_DINO = Native(image="imagenet")
_FEATURES = (
    BackendSpec(
        "features",
        "dinov2",
        f"{_BACKENDS}.dino:DinoFeatures",
        "Apache-2.0",
        "DINOv2 ViT-S/14 patch descriptors",
        ("transformers",),
        _HF,
        weights=Weights("facebook/dinov2-small"),
        native=_DINO,
        argument="weights",
    ),
    BackendSpec(
        "features",
        "dinov3",
        f"{_BACKENDS}.dino:DinoFeatures",
        "DINOv3 License",
        "DINOv3 ViT-S/16 patch descriptors",
        ("transformers",),
        _HF,
        "gated",
        Weights("facebook/dinov3-vits16-pretrain-lvd1689m"),
        native=_DINO,
        argument="weights",
    ),
)

_VGGT_NATIVE = Native(pose="cam_from_world", depth="z", scale="per-pass", image="0..1")
_MAPANYTHING_NATIVE = Native(pose="world_from_cam", depth="z", scale="metric", image="imagenet")
_DA3_NATIVE = Native(pose="cam_from_world", depth="z", scale="per-pass", image="0..255")
_MONO = Gives("metric", poses=True)
_PASS = Gives("per-pass", poses=True, intrinsics=True)
_METRIC_VIEWS = Gives("metric", poses=True, intrinsics=True)
_VGGT = (f"{_BACKENDS}.multi_view:Vggt", ("vggt",), f"{_GIT}/facebookresearch/vggt.git")
_MAPANYTHING = (f"{_BACKENDS}.multi_view:MapAnything", ("mapanything",), f"{_GIT}/facebookresearch/map-anything.git")
_DA3 = (f"{_BACKENDS}.multi_view:DepthAnything3", ("depth_anything_3",), f"{_GIT}/ByteDance-Seed/Depth-Anything-3.git")


def _geometry(
    name: str,
    code: tuple[str, tuple[str, ...], str],
    licence: tuple[str, str],
    summary: str,
    weights: str,
    gives: Gives,
    native: Native,
    file: str = "",
) -> BackendSpec:
    target, needs, mend = code
    kept = Weights(weights, file=file, whole=False) if file else Weights(weights)
    return BackendSpec(
        "geometry", name, target, licence[0], summary, needs, mend, licence[1], kept, gives, native, argument="weights"
    )


_GEOMETRY = (
    _geometry(
        "depth-anything-v2",
        (f"{_BACKENDS}.mono_depth:DepthAnythingV2", ("transformers",), _HF),
        ("Apache-2.0", "permissive"),
        "metric depth of single pictures (indoor, small), with the library's odometry",
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        _MONO,
        Native(depth="z", scale="metric", image="imagenet"),
    ),
    _geometry(
        "moge2",
        (f"{_BACKENDS}.mono_depth:MoGe2", ("moge",), f"{_GIT}/microsoft/MoGe.git"),
        ("MIT", "permissive"),
        "MoGe-2: metric depth and field of view of single pictures, with the library's odometry",
        "Ruicheng/moge-2-vitl-normal",
        _METRIC_VIEWS,
        Native(centres="half", depth="z", scale="metric", image="0..1"),
        "model.pt",
    ),
    _geometry(
        "vggt",
        _VGGT,
        ("VGGT-1B: CC-BY-NC-4.0", "non-commercial"),
        "VGGT: depth and cameras of many views; the paper's choice",
        "facebook/VGGT-1B",
        _PASS,
        _VGGT_NATIVE,
    ),
    _geometry(
        "vggt-commercial",
        _VGGT,
        ("VGGT licence (commercial, no military use)", "gated"),
        "VGGT with the commercially usable weights",
        "facebook/VGGT-1B-Commercial",
        _PASS,
        _VGGT_NATIVE,
    ),
    _geometry(
        "mapanything",
        _MAPANYTHING,
        ("CC-BY-NC-4.0", "non-commercial"),
        "MapAnything: metric depth and cameras; takes sensor depth and known cameras",
        "facebook/map-anything",
        _METRIC_VIEWS,
        _MAPANYTHING_NATIVE,
    ),
    _geometry(
        "mapanything-apache",
        _MAPANYTHING,
        ("Apache-2.0", "permissive"),
        "MapAnything with the permissive weights",
        "facebook/map-anything-apache",
        _METRIC_VIEWS,
        _MAPANYTHING_NATIVE,
    ),
    _geometry(
        "da3",
        _DA3,
        ("Apache-2.0", "permissive"),
        "Depth Anything 3 (base): depth and cameras of many views",
        "depth-anything/DA3-BASE",
        _PASS,
        _DA3_NATIVE,
    ),
    _geometry(
        "da3-nested",
        _DA3,
        ("CC-BY-NC-4.0", "non-commercial"),
        "Depth Anything 3 (nested giant): the same in metres",
        "depth-anything/DA3NESTED-GIANT-LARGE",
        _METRIC_VIEWS,
        _DA3_NATIVE,
    ),
    _geometry(
        "da3-metric",
        (f"{_BACKENDS}.mono_depth:DepthAnything3Metric", *_DA3[1:]),
        ("Apache-2.0", "permissive"),
        "Depth Anything 3 (metric large): depth of single pictures, with the library's odometry",
        "depth-anything/DA3METRIC-LARGE",
        _MONO,
        Native(depth="z", scale="metric", image="0..255"),
    ),
)

_PIXELS = Gives("input", tracks="2D", occlusion=True)
_WORLD = Gives("input", tracks="world", occlusion=True)
_TAPNET = f"{_GIT}/google-deepmind/tapnet.git"
_TAPNET_NATIVE = Native(centres="half", image="-1..1", queries="tyx")

_TRACKING = (
    BackendSpec(
        "tracking",
        "tapnext",
        f"{_BACKENDS}.trackers_2d:TapNext",
        "Apache-2.0",
        "TAPNext++: causal, memory does not grow with the clip",
        ("tapnet",),
        _TAPNET,
        "permissive",
        Weights("https://storage.googleapis.com/dm-tapnet/tapnextpp/tapnextpp_ckpt.pt"),
        _PIXELS,
        _TAPNET_NATIVE,
        argument="weights",
    ),
    BackendSpec(
        "tracking",
        "bootstapir",
        f"{_BACKENDS}.trackers_2d:BootsTapir",
        "Apache-2.0",
        "BootsTAPIR (torch)",
        ("tapnet",),
        _TAPNET,
        "permissive",
        Weights("https://storage.googleapis.com/dm-tapnet/bootstap/bootstapir_checkpoint_v2.pt"),
        _PIXELS,
        _TAPNET_NATIVE,
        argument="weights",
    ),
    BackendSpec(
        "tracking",
        "cotracker3",
        f"{_BACKENDS}.trackers_2d:CoTracker3",
        "CC-BY-NC-4.0",
        "CoTracker3, offline",
        ("cotracker",),
        f"{_GIT}/facebookresearch/co-tracker.git",
        "non-commercial",
        Weights("facebook/cotracker3", file="scaled_offline.pth", whole=False),
        _PIXELS,
        Native(image="0..255", queries="txy"),
        argument="weights",
    ),
    BackendSpec(
        "tracking",
        "tapip3d",
        f"{_BACKENDS}.trackers_3d:Tapip3d",
        "code Apache-2.0; no licence is stated for the weights",
        "TAPIP3D: points in the world; the paper's choice",
        (),
        "git clone https://github.com/zbw001/TAPIP3D.git && export TRACEWORLD_TAPIP3D=$PWD/TAPIP3D",
        "non-commercial",  # until its authors say otherwise
        Weights("zbww/tapip3d", file="tapip3d_final.pth", whole=False),
        _WORLD,
        Native(pose="cam_from_world", depth="z", scale="input", image="0..1", queries="tXYZ"),
        "TRACEWORLD_TAPIP3D",
        "weights",
    ),
    BackendSpec(
        "tracking",
        "spatracker2",
        f"{_BACKENDS}.trackers_3d:SpaTracker2",
        "CC-BY-NC-4.0 (as reported; its repository states none)",
        "SpatialTrackerV2, offline",
        (),
        "git clone https://github.com/henry123-boy/SpaTrackerV2.git && export TRACEWORLD_SPATRACKER2=$PWD/SpaTrackerV2",
        "non-commercial",
        Weights("Yuxihenry/SpatialTrackerV2-Offline"),
        _WORLD,
        Native(pose="world_from_cam", depth="z", scale="input", image="0..255", queries="txy"),
        "TRACEWORLD_SPATRACKER2",
        "weights",
    ),
)

_OTHERS = (
    BackendSpec(
        "entities",
        "sam2",
        f"{_BACKENDS}.sam2:Sam2Entities",
        "Apache-2.0",
        "outlines and propagation by SAM 2 video, proposals by the embedded finder",
        ("transformers",),
        _HF,
        weights=Weights("facebook/sam2.1-hiera-tiny"),
        native=Native(image="imagenet"),
        argument="weights",
    ),
    BackendSpec(
        "captions",
        "smolvlm2",
        f"{_BACKENDS}.vlm:VlmCaptioner",
        "Apache-2.0",
        "SmolVLM2-2.2B on this machine",
        ("transformers",),
        _HF,
        weights=Weights("HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
        argument="weights",
    ),
    BackendSpec(
        "captions",
        "qwen-vl",
        f"{_BACKENDS}.vlm:VlmCaptioner",
        "Apache-2.0",
        "Qwen2.5-VL-7B on this machine",
        ("transformers",),
        _HF,
        weights=Weights("Qwen/Qwen2.5-VL-7B-Instruct"),
        argument="weights",
    ),
    BackendSpec(
        "captions",
        "openai",
        f"{_BACKENDS}.endpoint:EndpointCaptioner",
        "terms of the served model",
        "any OpenAI-compatible server (vLLM, llama.cpp, Ollama, …)",
        licence_class="user",
        argument="address",
        needs_argument="openai:MODEL@URL",
    ),
)

SPECS = (*EMBEDDED, *_FEATURES, *_GEOMETRY, *_TRACKING, *_OTHERS)

PRESETS: dict[str, dict[str, str]] = {
    "embedded": {
        "features": "embedded",
        "geometry": "embedded",
        "tracking": "embedded",
        "entities": "embedded",
        "captions": "template",
    },
    "hf": {
        "features": "dinov2",
        "geometry": "depth-anything-v2",
        "tracking": "embedded",
        "entities": "embedded",
        "captions": "smolvlm2",
    },
    "permissive-gpu": {
        "features": "dinov2",
        "geometry": "mapanything-apache",
        "tracking": "tapnext",
        "entities": "embedded",
        "captions": "qwen-vl",
    },
    "paper": {
        "features": "dinov2",
        "geometry": "vggt",
        "tracking": "tapip3d",
        "entities": "embedded",
        "captions": "openai",
    },
}
"""Backends by kind. `embedded`: a CPU and no downloads. `hf`: packages from PyPI only. `permissive-gpu`: free for every use.
`paper`: the choices of mu0-paper; parts of it are non-commercial, and it needs `--captions openai:MODEL@URL`."""


def preset(name: str) -> dict[str, str]:
    """Kind → backend of a preset.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is called '{name}'", where="preset", mend=f"one of {', '.join(PRESETS)}")
    return dict(PRESETS[name])
