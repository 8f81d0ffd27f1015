"""Sources: ids in order, traces by seed, and errors that name what was asked for."""

import itertools
import pickle  # what worker processes do with a source

import pytest
from qa_scenes import table_scene, table_traces

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.tracespatial.rejection import Rejection
from traceworld.tracespatial.sources import SceneSource, SimSource, TraceSet, planned_traces, views


def test_two_seeds_of_the_simulator_share_no_table():
    first = list(itertools.islice(SimSource(0, views=2).scene_ids(), 4))
    assert first == ["sim-0-0", "sim-0-1", "sim-1-0", "sim-1-1"]
    assert next(SimSource(3).scene_ids()) == "sim-3000000-0"


def test_a_source_goes_to_other_processes_without_its_scenes():
    source = SimSource(1)
    source._held = (1, ())
    assert isinstance(source, SceneSource)
    copy = pickle.loads(pickle.dumps(source))
    assert copy._held is None
    assert (copy.name, copy.seed) == (source.name, 1)


@pytest.mark.parametrize("scene_id", ["sim-0", "sim-0-1", "table-1-0", "sim-x-0"])
def test_ids_that_the_simulator_does_not_know(scene_id):
    with pytest.raises(InvalidInputError):
        SimSource(0, views=1).load(scene_id)


def test_a_simulator_that_cannot_be():
    with pytest.raises(ConfigError):
        SimSource(-1)
    with pytest.raises(ConfigError):
        SimSource(0, views=0)


def test_scenes_without_a_scale_have_no_planned_traces():
    (found,) = planned_traces(table_scene(metric=False), 0, 5)
    assert list(found.traces) == []


def test_traces_depend_on_seed_and_scene():
    def ends(scene, seed):
        (found,) = planned_traces(scene, seed, 4)
        assert len(found.traces) + len(found.rejected) == 4
        return [one.points_world[-1].tolist() for one in found.traces]

    assert ends(table_scene(), 1) == ends(table_scene(), 1)
    assert ends(table_scene(), 1) != ends(table_scene(scene_id="other"), 1)


def test_a_view_per_set_counts_the_rejected():
    scene = table_scene()

    class Two:
        name = "two"

        def scene_ids(self):
            return iter(["toy"])

        def load(self, scene_id):
            return scene

        def traces(self, scene, seed, number):
            refused = [Rejection("no_path", "", scene.scene_id, "mug1", 1)]
            return [TraceSet(table_traces(scene)[:2], rejected=refused), TraceSet([], "end-effector")]

    planned, gripper = views(Two(), scene, 0, 2)
    assert len(planned.traces) == 2
    assert planned.rejects == {"trace: no_path": 1}
    assert (gripper.trace_kind, len(gripper.traces)) == ("end-effector", 0)
