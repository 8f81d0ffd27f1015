"""Registration of depth to colour: the splat, the edge score, the search."""

import numpy as np
import pytest
from made_media import BRIDGE, K_of, needs_shared, render_boxes, texture

from traceworld.errors import DepthError
from traceworld.perception.registration import (
    DepthRig,
    EdgeEvidence,
    as_is_rig,
    check_registration,
    gradient_map,
    near_edges,
    project_rig,
    refine_rig,
    register_depth,
)

W, H = 160, 120
K_COLOR, K_DEPTH = K_of(W, H, 176), K_of(W, H, 120)
SHIFT = np.eye(4)
SHIFT[:3, 3] = [0.02, -0.005, 0.0]
RIG = DepthRig(K_DEPTH, K_COLOR, SHIFT, (W, H))


def views(num_frames=6):
    """Pairs of colour picture and depth from the camera beside it, and depth as the colour camera would see it."""
    pairs, truths = [], []
    for frame in range(num_frames):
        image, truth = render_boxes(K_COLOR, np.eye(4), W, H, 0.004 * frame)
        _, beside = render_boxes(K_DEPTH, np.linalg.inv(SHIFT), W, H, 0.004 * frame)
        pairs.append((image, beside))
        truths.append(truth)
    return pairs, truths


PAIRS, TRUTHS = views()


def plain_splat(depth_m: np.ndarray, rig: DepthRig) -> np.ndarray:
    """The same pixel by pixel: the box that a depth pixel's outline projects to, nearest surface on top."""
    width, height = rig.color_size
    out = np.full((height, width), np.nan)
    cells = np.argwhere(depth_m > 0)
    z_m = depth_m[depth_m > 0].astype(float)
    spots = [project_rig(cells[:, ::-1] + offset, z_m, rig) for offset in (0.0, -0.502, 0.502)]
    for centre, low, high in zip(*spots, strict=True):
        box = [range(int(np.ceil(low[k])), int(np.ceil(high[k]))) or [round(centre[k])] for k in (0, 1)]
        for y in box[1]:
            for x in box[0]:
                if 0 <= x < width and 0 <= y < height and not out[y, x] < centre[2]:
                    out[y, x] = centre[2]
    return out


@pytest.mark.parametrize("size", [(160, 120), (60, 45), (300, 225)])
def test_it_equals_a_plain_loop_at_every_size(size):
    rig = DepthRig(K_DEPTH, K_of(*size, 1.1 * size[0]), SHIFT, size)
    fast, plain = register_depth(PAIRS[0][1], rig), plain_splat(PAIRS[0][1], rig)
    assert fast.shape == (size[1], size[0])
    assert (np.isfinite(fast) != np.isfinite(plain)).mean() < 0.002  # pixel borders that rounding puts on either side
    both = np.isfinite(fast) & np.isfinite(plain)
    assert (np.abs(fast - plain)[both] < 1e-4).mean() > 0.998


def test_registered_depth_is_what_the_colour_camera_sees():
    out = register_depth(PAIRS[0][1], RIG)
    assert out.dtype == np.float32
    measured = np.isfinite(out)
    assert measured.mean() > 0.85
    right = np.abs(out - TRUTHS[0])[measured] < 0.01 * TRUTHS[0][measured]
    assert right.mean() > 0.95


def test_points_beside_behind_and_at_the_colour_camera_do_no_harm():
    behind = np.eye(4)
    behind[2, 3] = -0.9  # the colour camera stands in the middle of the scene
    rig = DepthRig(K_DEPTH, K_COLOR, behind, (W, H))
    depth_m = PAIRS[0][1].copy()
    depth_m[:20] = 0.9
    depth_m[20:40] = 0.9000001
    out = register_depth(depth_m, rig)
    assert (out[np.isfinite(out)] > 0).all()


def test_the_nearest_surface_wins():
    depth_m = np.full((H, W), 2.0, np.float32)
    depth_m[40:80, 60:100] = 0.5
    out = register_depth(depth_m, RIG)
    xyz = project_rig(np.array([[80.0, 60.0]]), np.array([0.5]), RIG)[0]
    assert out[round(xyz[1]), round(xyz[0])] == pytest.approx(0.5, abs=1e-5)


def test_holes_stay_holes_and_no_depth_gives_none():
    empty = np.full((H, W), np.nan, np.float32)
    assert np.isnan(register_depth(empty, RIG)).all()


def test_identity_changes_nothing():
    same = as_is_rig((W, H), K_COLOR, (W, H))
    np.testing.assert_allclose(register_depth(TRUTHS[0], same), TRUTHS[0], rtol=1e-5)


def test_the_as_is_rig_of_half_size_depth_maps_pixel_edges_onto_each_other():
    half = as_is_rig((W // 2, H // 2), K_COLOR, (W, H))
    corners = np.array([[-0.5, -0.5], [W / 2 - 0.5, H / 2 - 0.5]])
    xyz = project_rig(corners, np.array([1.0, 1.0]), half)
    np.testing.assert_allclose(xyz[:, :2], [[-0.5, -0.5], [W - 0.5, H - 0.5]], atol=1e-9)


def test_near_edges_are_on_the_near_side():
    depth_m = np.full((60, 80), 2.0, np.float32)
    depth_m[20:40, 30:50] = 1.0
    xy_px, z_m = near_edges(depth_m)
    assert (z_m == 1.0).all()
    assert ((xy_px >= [30, 20]) & (xy_px < [50, 40])).all()
    assert len(near_edges(np.full((60, 80), 2.0, np.float32))[1]) == 0
    assert len(near_edges(np.full((60, 80), np.nan, np.float32))[1]) == 0


def test_gradient_map_has_mean_one():
    assert gradient_map(texture(0, 60, 80)).mean() == pytest.approx(1, abs=1e-4)
    assert (gradient_map(np.zeros((60, 80, 3), np.uint8)) == 1).all()


def test_the_score_is_high_where_aligned_and_chance_where_not():
    evidence = EdgeEvidence(PAIRS)
    aligned, as_is = evidence.score(RIG), evidence.score(as_is_rig((W, H), K_COLOR, (W, H)))
    assert aligned > 2
    assert as_is < 0.6 * aligned
    noise = EdgeEvidence([(texture(k, H, W), depth_m) for k, (_, depth_m) in enumerate(PAIRS)])
    assert noise.score(RIG) == pytest.approx(1, abs=0.15)


def test_the_score_equals_a_plain_loop_over_frames():
    evidence = EdgeEvidence(PAIRS[:3])
    total, count = 0.0, 0
    for image, depth_m in PAIRS[:3]:
        gradients = gradient_map(image)
        xy_px, z_m = near_edges(depth_m)
        for x, y in project_rig(xy_px, z_m, RIG)[:, :2]:
            if 0 <= x <= W - 1 and 0 <= y <= H - 1:
                x0, y0 = min(int(x), W - 2), min(int(y), H - 2)
                fx, fy = x - x0, y - y0
                box = gradients[y0 : y0 + 2, x0 : x0 + 2]
                total += float(np.array([1 - fy, fy]) @ box @ np.array([1 - fx, fx]))
                count += 1
    assert evidence.score(RIG) == pytest.approx(total / count, rel=0.02)  # OpenCV interpolates in steps of 1/32 px


def test_edges_that_leave_the_picture_do_not_score():
    away = np.eye(4)
    away[0, 3] = 0.5
    assert EdgeEvidence(PAIRS).score(DepthRig(K_DEPTH, K_COLOR, away, (W, H))) == 0.0


def test_the_search_brings_a_shifted_calibration_back():
    off = SHIFT.copy()
    off[0, 3] += 0.012
    start = DepthRig(K_DEPTH, K_COLOR, off, (W, H))
    evidence = EdgeEvidence(PAIRS)
    found = refine_rig(evidence, start, free_focal=False)
    assert evidence.shift_px(RIG, start) > 2.5
    assert evidence.shift_px(RIG, found) < 1.5
    assert evidence.score(found) > 1.2 * evidence.score(start)


def test_a_right_calibration_is_kept_to_the_letter():
    check = check_registration(PAIRS, K_COLOR, RIG)
    assert check.rig is RIG
    assert check.looks_unregistered
    assert not check.looks_registered
    assert check.calibration == "as stated"


def test_misstated_calibrations_are_recognised():
    inverse = DepthRig(K_DEPTH, K_COLOR, np.linalg.inv(SHIFT), (W, H))
    assert EdgeEvidence(PAIRS).shift_px(RIG, check_registration(PAIRS, K_COLOR, inverse).rig) < 1.5
    # Pictures turned by 180° after calibration: baseline and principal points are mirrored.
    K_off = K_DEPTH.copy()
    K_off[0, 2] += 6
    turned = [(np.ascontiguousarray(i[::-1, ::-1]), np.ascontiguousarray(d[::-1, ::-1])) for i, d in PAIRS]
    rig = DepthRig(K_DEPTH, K_COLOR, SHIFT, (W, H))
    check = check_registration(turned, K_COLOR, rig)
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    truth = DepthRig(K_DEPTH, K_COLOR, half_turn @ SHIFT @ half_turn, (W, H))
    assert EdgeEvidence(turned).shift_px(truth, check.rig) < 1.5


def test_registered_depth_is_not_doubted():
    check = check_registration([(image, truth) for (image, _), truth in zip(PAIRS, TRUTHS, strict=True)], K_COLOR, None)
    assert not check.looks_unregistered
    assert check.score_as_is > 1.8


def test_registered_depth_beats_a_calibration_that_does_not_apply():
    pairs = [(image, truth) for (image, _), truth in zip(PAIRS, TRUTHS, strict=True)]
    far = np.eye(4)
    far[:3, 3] = [0.2, 0.1, 0.0]
    assert check_registration(pairs, K_COLOR, DepthRig(K_of(W, H, 90), K_COLOR, far, (W, H))).looks_registered


def test_without_edges_nothing_is_concluded():
    flat = [(texture(k, H, W), np.full((H, W), 1.5, np.float32)) for k in range(4)]
    check = check_registration(flat, K_COLOR, RIG)
    assert not check.conclusive
    assert check.rig is RIG
    with pytest.raises(DepthError):
        check_registration([], K_COLOR, RIG)


@pytest.mark.shared_data
@needs_shared(BRIDGE)
def test_known_figures_of_the_real_clip():
    from traceworld.perception.depth_files import read_depth_file, to_metres
    from traceworld.perception.frame_folder import read_image
    from traceworld.perception.rgbd_layout import read_clip_file

    clip = read_clip_file(BRIDGE / "clip.json")
    pairs = [
        (read_image(BRIDGE / f"color/{k:04d}.jpg"), to_metres(read_depth_file(BRIDGE / f"depth/{k:04d}.png"), 0.001))
        for k in range(0, 35, 5)
    ]
    evidence = EdgeEvidence(pairs)
    assert evidence.score(as_is_rig((640, 480), clip.color_K, (640, 480))) == pytest.approx(1.05, abs=0.15)
    nominal = DepthRig(clip.depth_K, clip.color_K, clip.color_from_depth, (640, 480))
    assert evidence.score(nominal) == pytest.approx(1.95, abs=0.15)
