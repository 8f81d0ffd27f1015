"""Traces from end to end on scenes of boxes."""

from dataclasses import replace

import numpy as np
import pytest
from box_scenes import box_scene, front_camera

from traceworld.errors import ConfigError
from traceworld.geometry.cameras import project
from traceworld.tracespatial import traces as t
from traceworld.tracespatial.rejection import Rejection
from traceworld.tracespatial.scene import SpatialTrace
from traceworld.tracespatial.strict_collision import check_trace


@pytest.fixture(scope="module")
def scene():
    return box_scene(
        ("mug", (-0.3, 0.0), (0.08, 0.08, 0.1)),
        ("can", (0.0, 0.02), (0.07, 0.07, 0.12)),
        ("box", (0.28, 0.05), (0.18, 0.14, 0.08)),
        ("book", (-0.05, -0.25), (0.2, 0.15, 0.03)),
        camera=front_camera(240, 180, distance=1.6),
    )


@pytest.fixture(scope="module")
def outcomes(scene):
    return t.propose_traces(scene, 0, 30)


def traces_of(outcomes):
    return [(one.plan, one.result) for one in outcomes if isinstance(one.result, SpatialTrace)]


def test_most_proposals_become_traces_of_all_primitives(outcomes):
    made = traces_of(outcomes)
    assert len(made) >= 15
    assert {trace.primitive for _, trace in made} == {1, 2, 3, 4, 5}
    for one in outcomes:
        if isinstance(one.result, Rejection):
            assert one.result.reason
            assert one.result.detail


def test_a_trace_says_what_its_plan_says(scene, outcomes):
    for plan, trace in traces_of(outcomes):
        assert (trace.object_id, trace.reference_id, trace.via_id) == (plan.object_id, plan.reference_id, plan.via_id)
        assert (trace.primitive, trace.direction, trace.steps) == (plan.primitive, plan.direction, plan.steps)
        assert trace.passed_ids == tuple(one.object_id for one in plan.passed)
        assert set(plan.passed) <= set(plan.nearby)
        assert (plan.via_side is not None) == (trace.primitive in (4, 5))
        assert 2 <= len(trace.points_world) <= 8
        uvd = project(trace.points_world, scene.camera.K, scene.camera.cam_from_world)
        np.testing.assert_allclose(trace.uvd, uvd)
        u, v, _ = trace.uvd[0]
        assert scene.object(trace.object_id).mask[round(v), round(u)]


def test_where_traces_end(scene, outcomes):
    """Recomputed from the boxes: the object lies on its platform, on the side that was asked for."""
    for plan, trace in traces_of(outcomes):
        box = scene.object(trace.object_id).box
        way = trace.points_world[-1] - trace.points_world[0]
        end = box.center_xyz + way
        if plan.platform_id is not None:
            support = scene.object(plan.platform_id).box
            top = support.center_xyz[2] + support.size_m[2] / 2
            assert end[2] - box.size_m[2] / 2 == pytest.approx(top, abs=0.016)
            assert (np.abs(end - support.center_xyz)[:2] <= support.size_m[:2] / 2).all()
        if trace.primitive in (1, 4):
            offset = end - scene.object(trace.reference_id).box.center_xyz
            sign = {"left": -offset[0], "right": offset[0], "front": -offset[1], "behind": offset[1]}[trace.direction]
            assert sign >= np.abs(offset[:2]).max() - 1e-6
        if trace.primitive == 2:
            axis = {"left": [-1, 0, 0], "right": [1, 0, 0], "front": [0, -1, 0], "behind": [0, 1, 0], "up": [0, 0, 1]}
            assert way @ axis[trace.direction] == pytest.approx(plan.distance_m)
            assert plan.distance_m > 0.99 * np.linalg.norm(way)


def test_without_the_gate_the_checker_still_finds_nothing(scene):
    made = traces_of(t.propose_traces(scene, 1, 20, config=t.TraceConfig(gate=False)))
    assert made
    assert not any(check_trace(scene, trace.object_id, trace.points_world).collided for _, trace in made)


def test_the_gate_rejects_what_the_checker_finds(scene, monkeypatch):
    class Hit:
        collided, with_id, at_m = True, "can", 0.1

    monkeypatch.setattr(t, "check_trace", lambda *_: Hit)
    reasons = t.count_reasons(t.make_traces(scene, 0, 6))
    assert "trace" not in reasons
    assert reasons["strict_collision"] >= 3


def test_same_seed_same_traces_and_proposals_do_not_depend_on_their_number(scene, outcomes):
    again = t.propose_traces(scene, 0, 6)
    for one, other in zip(again, outcomes, strict=False):
        assert one.plan == other.plan
        if isinstance(one.result, SpatialTrace):
            np.testing.assert_array_equal(one.result.points_world, other.result.points_world)
        else:
            assert one.result == other.result
    other_scene = replace(scene, scene_id="another")
    assert [one.plan for one in t.propose_traces(other_scene, 0, 6)] != [one.plan for one in again]


def test_words_come_from_the_plan(scene):
    made = t.make_traces(scene, 0, 4, word=lambda where, plan: f"{where.scene_id} {plan.primitive}")
    assert {one.instruction for one in made if isinstance(one, SpatialTrace)} <= {f"crafted {k}" for k in range(1, 6)}
    assert all(one.instruction == "" for one in t.make_traces(scene, 0, 2) if isinstance(one, SpatialTrace))


def test_only_the_wanted_primitives(scene):
    results = t.make_traces(scene, 0, 5, config=t.TraceConfig(weights=(0.0, 1.0, 0.0, 0.0, 0.0)))
    assert {one.primitive for one in results} == {2}


def test_slides_stay_on_their_surface():
    empty = box_scene(("mug", (-0.1, 0.0), (0.08, 0.08, 0.1)), camera=front_camera(240, 180, distance=1.6))
    for slide, rises in ((1.0, False), (0.0, True)):
        config = t.TraceConfig(weights=(0.0, 1.0, 0.0, 0.0, 0.0), slide=slide)
        made = [one for one in t.make_traces(empty, 0, 12, config=config) if isinstance(one, SpatialTrace)]
        level = [one for one in made if one.direction != "up"]
        assert len(level) >= 3
        for one in level:
            assert (np.ptp(one.points_world[:, 2]) > 0.02) == rises


FIXED = {"movable": False}
MUG = ("mug", (-0.25, 0.0), (0.08, 0.08, 0.1))


def reasons(scene, primitive, **more):
    config = t.TraceConfig(weights=tuple(float(k == primitive) for k in range(1, 6)), **more)
    return t.count_reasons(t.make_traces(scene, 0, 3, config=config))


def test_no_way_out_of_a_cage():
    cage = [
        ("wall west", (-0.35, 0.0), (0.02, 0.22, 0.3), FIXED),
        ("wall east", (-0.15, 0.0), (0.02, 0.22, 0.3), FIXED),
        ("wall north", (-0.25, 0.12), (0.22, 0.02, 0.3), FIXED),
        ("wall south", (-0.25, -0.12), (0.22, 0.02, 0.1), FIXED),
        ("lid", (-0.25, 0.0, 1.0), (0.24, 0.28, 0.02), FIXED | {"support_id": None, "caption": ""}),
        ("front", (-0.25, -0.15, 0.9), (0.24, 0.02, 0.22), FIXED | {"support_id": None, "caption": ""}),
    ]
    open_top = box_scene(MUG, *cage[:4], ("box", (0.3, 0.0), (0.16, 0.12, 0.08), FIXED))
    planner = replace(t.PlannerConfig(), max_iterations=150)
    beside = {"planner": planner, "goal_tries": 30}
    assert "trace" in reasons(open_top, 3, **beside)
    # The camera looks over the low south wall; what closes the cage above it is not drawn, only known.
    closed = box_scene(*[MUG, *cage, ("box", (0.3, 0.0), (0.16, 0.12, 0.08), FIXED)])
    shown = {one.object_id: one.mask for one in open_top.objects}
    closed = replace(
        closed, objects=tuple(replace(one, mask=shown.get(one.object_id, one.mask)) for one in closed.objects)
    )
    assert reasons(closed, 3, **beside) == {"no_path": 3}


def test_nothing_to_bypass():
    scene = box_scene(MUG, ("box", (0.3, 0.0), (0.16, 0.12, 0.08), FIXED), camera=front_camera(240, 180, distance=1.6))
    assert reasons(scene, 5) == {"no_via": 3}


def test_a_path_that_cannot_be_told_in_few_points_is_refused(scene, monkeypatch):
    monkeypatch.setattr(t, "smooth", lambda *_: None)
    assert set(reasons(scene, 3)) <= {"refined_path_collides", "no_partner", "no_path"}
    assert "refined_path_collides" in reasons(scene, 3)


def test_the_start_alone_may_be_moved(scene):
    config = {"weights": (0.0, 1.0, 0.0, 0.0, 0.0)}
    carried = t.make_traces(scene, 0, 8, config=t.TraceConfig(**config))
    alone = t.make_traces(scene, 0, 8, config=t.TraceConfig(carry_start=False, **config))
    compared = 0
    for one, other in zip(carried, alone, strict=True):
        if isinstance(one, SpatialTrace) and isinstance(other, SpatialTrace):
            shift = one.points_world[1:] - other.points_world[1:]
            np.testing.assert_array_equal(one.points_world[0], other.points_world[0])
            np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-12)
            assert 0 < np.linalg.norm(shift[0]) < 0.1
            compared += 1
    assert compared >= 2


def test_a_scene_without_anything_to_move():
    results = t.make_traces(box_scene(), 0, 3)
    assert t.count_reasons(results) == {"no_partner": 3}


def test_reasons_are_counted_most_frequent_first():
    def no(reason):
        return Rejection(reason, "", "s", "", 1)

    assert list(t.count_reasons([no("occluded"), no("no_path"), no("no_path")])) == ["no_path", "occluded"]


@pytest.mark.parametrize(
    "values", [{"weights": (0.0,) * 5}, {"weights": (1.0,)}, {"tell_passed": 2.0}, {"slide": -0.1}, {"goal_tries": 0}]
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError):
        t.TraceConfig(**values)
