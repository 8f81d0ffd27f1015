"""Options: checked, hashed, passed on."""

import dataclasses
import json

import pytest

from traceworld.errors import ConfigError
from traceworld.extract.config import ExtractConfig


@pytest.mark.parametrize(
    "bad",
    [
        {"num_keypoints": 0},
        {"chunk_frames": 1},
        {"tau_moving_px": 0.0},
        {"lambda_z": -0.1},
        {"min_event_s": 0.0},
        {"max_event_s": 1.5},
        {"peak_prominence": 0.0},
        {"peak_prominence": 1.5},
        {"merge_window": 1},
        {"merge_stride": 0},
        {"merge_stride": 4},
        {"grid": 20},
        {"grid": 1, "num_keypoints": 1},
        {"seed": -1},
        {"max_side": 3},
        {"fps": -1.0},
        {"max_frames": 1},
        {"fov_deg": float("nan")},
    ],
)
def test_impossible_values_are_refused(bad):
    with pytest.raises(ConfigError) as caught:
        ExtractConfig(**bad)
    assert next(iter(bad)) in str(caught.value)


def test_the_hash_changes_with_every_option_and_only_with_options():
    base = ExtractConfig()
    assert base.hash == ExtractConfig().hash
    changed = {
        "num_keypoints": 7, "chunk_frames": 9, "tau_moving_px": 1.0, "lambda_z": 0.2, "captions": "other", "max_side": 99,
        "fps": 3.0, "max_frames": 5, "allow_partial": True, "frame_rate": 3.0, "fov_deg": 50.0, "registration": "trust",
        "min_event_s": 0.5, "max_event_s": 9.0, "smooth_s": 0.4, "peak_prominence": 0.5, "merge_window": 5, "merge_stride": 2, "grid": 5, "seed": 3,
        "tracking": dataclasses.replace(base.tracking, fb_px=9.0),
        "odometry": dataclasses.replace(base.odometry, static_share=0.9),
        "features": "dinov2", "geometry": "vggt", "tracker": "tapnext", "entities": "sam2",
    }  # fmt: skip
    assert set(changed) == {field.name for field in dataclasses.fields(ExtractConfig)} - {"accept_licence"}
    configs = {name: changed_by(base, name, value) for name, value in changed.items()}
    assert len({config.hash for config in configs.values()} | {base.hash}) == len(changed) + 1
    later = {name for name, config in configs.items() if config.tracking_options() == base.tracking_options()}
    assert later == {
        "captions", "merge_window", "merge_stride", "min_event_s", "max_event_s", "smooth_s", "peak_prominence",
    }  # fmt: skip
    for config in configs.values():
        assert ExtractConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def changed_by(base, name, value):
    return dataclasses.replace(base, **{name: value} | ({"num_keypoints": 25} if name == "grid" else {}))


@pytest.mark.parametrize("told", [{"speed": 3}, {"tracking": {"speed": 3}}, {"tracking": 3}, {"num_keypoints": 0}])
def test_a_config_of_another_traceworld_is_refused(told):
    with pytest.raises(ConfigError):
        ExtractConfig.from_dict(told)


def test_accepting_a_licence_changes_no_result_and_embedded_senses_no_hash():
    base = ExtractConfig()
    assert dataclasses.replace(base, accept_licence=("gated",)).hash == base.hash
    assert not {"features", "geometry", "tracker", "entities", "accept_licence", "grid", "merge_stride"} & set(
        base.as_dict()
    )
    assert dataclasses.replace(base, tracker="tapnext").as_dict()["tracker"] == "tapnext"


def test_it_is_plain_json():
    assert json.loads(json.dumps(ExtractConfig().as_dict()))["num_keypoints"] == 256


def test_source_options_are_passed_on():
    options = ExtractConfig(max_side=77, fps=4.0, allow_partial=True, registration="trust").source_options()
    assert (options.max_side, options.fps, options.allow_partial, options.registration) == (77, 4.0, True, "trust")
