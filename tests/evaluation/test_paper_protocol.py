"""The released choice of slots, keypoints and captions, against a plain re-implementation; its metric names and figures."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from traceworld.errors import ConfigError, DatasetError
from traceworld.evaluation.forecast import evaluate_forecast
from traceworld.evaluation.metrics import dtw_reference, frechet_reference
from traceworld.evaluation.paper_protocol import PaperChoice, choose_paper_slots, paper_metrics, slot_order
from traceworld.traces.batching import NO_INSTRUCTION
from traceworld.traces.media import write_pictures
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Event, TracePrediction
from traceworld.traces.windows import WindowConfig, cut_window
from traceworld.traces.writer import DatasetWriter

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import make_clip, picture

ARC = WindowConfig(clock="arc", step=0.005)
CAPTIONS = (
    Event(0, 30, "push it"),
    Event(0, 30, "shove it"),
    Event(10, 60, "carry on"),
    Event(0, 45, "all of it", level=1),
    Event(0, 45, "the whole", level=1),
    Event(0, 45, "everything", level=1),
)


def write_store(folder, names, pictures, events=CAPTIONS, **options):
    writer = DatasetWriter(folder, source="tests")
    for number, name in enumerate(names):
        clip = make_clip(name, seed=number, T=60, N=44, occluded=0.2, **options)
        shown = pictures[number % len(pictures)]
        media = write_pictures(
            writer.media_folder(name), {frame: picture(frame) for frame in shown}, None, relative_to=folder
        )
        writer.write_item(name, [replace(clip, media=media, events=events)])
    writer.finalise()
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    # 18, 9 and 4 frames: all three offsets, only the first two (rank 8 is the last), none.
    pictures = [range(0, 54, 3), range(0, 27, 3), range(0, 12, 3)]
    return write_store(tmp_path_factory.mktemp("paper") / "clips", ["c", "a", "d", "b", "e"], pictures)


def plain_choice(store, seed, offsets=(4, 8, 12), n=16, window=ARC):
    """The dossier's four steps, spelt out: [(clip, frame, keypoints, caption)]."""
    dataset = open_dataset(store)
    clips = [dataset.clip(name) for name in sorted(dataset.clip_ids)]

    def rows(clip, frame):
        seen = clip.traces.visible[frame] & clip.traces.valid[frame] & clip.traces.moving
        xyz = clip.traces.xyz_world[frame]
        px = xyz @ clip.cameras.K[frame].T
        px = px[:, :2] / px[:, 2:]
        inside = ((px >= -0.5) & (px <= [clip.cameras.width - 0.5, clip.cameras.height - 0.5])).all(1)
        return [i for i in range(len(xyz)) if seen[i] and inside[i]]

    usable = [[f for f in sorted(clip.media.frame_index) if len(rows(clip, f)) >= n] for clip in clips]
    union = []
    for offset in offsets:
        part = [(e, frames[offset]) for e, frames in enumerate(usable) if offset < len(frames)]
        random.Random(seed).shuffle(part)
        for place in part:
            if place not in union:
                union.append(place)
    random.Random(seed).shuffle(union)
    drawn = random.Random(seed)
    found = []
    for e, frame in union:
        pool = rows(clips[e], frame)
        count = drawn.randint(min(n, len(pool)), min(n, len(pool)))
        chosen = [pool[i] for i in drawn.sample(range(len(pool)), count)]
        entries = []
        for event in clips[e].events:
            if event.start <= frame < event.end:
                span = (event.level, event.start, event.end)
                if span not in [known for known, _ in entries]:
                    entries.append((span, []))
                dict(entries)[span].append(event.caption)
        words = drawn.choice(drawn.choice([texts for _, texts in entries])) if entries else NO_INSTRUCTION
        found.append((clips[e].clip_id, frame, chosen, words))
    return found


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_slots_keypoints_and_captions_are_the_released_ones(store, seed):
    expected = plain_choice(store, seed)
    chosen = choose_paper_slots(store, PaperChoice(ARC, seed))
    assert len(expected) == len(chosen.slots) >= 8  # of three, two and no offsets per clip; some frames show too few
    dataset = open_dataset(store)
    for slot, (clip_id, frame, points, words) in zip(chosen.slots, expected, strict=True):
        assert (slot.clip_id, slot.frame, slot.observation.instruction) == (clip_id, frame, words)
        anchor = cut_window(dataset.clip(clip_id), frame, ARC).anchor_uvz[points]
        np.testing.assert_array_equal(slot.observation.keypoints_uv, anchor[:, :2])
        np.testing.assert_array_equal(slot.anchor_z_m, anchor[:, 2])
    assert len({(slot.clip_id, slot.frame) for slot in chosen.slots}) == len(chosen.slots)


def test_other_seeds_choose_otherwise_and_short_clips_are_named(store):
    one, other = (choose_paper_slots(store, PaperChoice(ARC, seed)) for seed in (0, 1))
    places = [[(slot.clip_id, slot.frame) for slot in chosen.slots] for chosen in (one, other)]
    assert sorted(places[0]) == sorted(places[1])
    assert places[0] != places[1]
    assert set(one.short) >= {"a", "d", "e"}  # nine, four and nine pictures
    assert one.short["d"] in [f"{n} of 13 frames with a picture and 16 moving points" for n in (3, 4)]


def test_the_first_windows_do_not_depend_on_how_many_are_scored(store):
    whole = choose_paper_slots(store, PaperChoice(ARC)).slots
    few = choose_paper_slots(store, PaperChoice(ARC, max_windows=3)).slots
    assert len(few) == 3
    for a, b in zip(few, whole, strict=False):
        np.testing.assert_array_equal(a.observation.keypoints_uv, b.observation.keypoints_uv)
        assert a.observation.instruction == b.observation.instruction


def test_slots_taken_twice_are_asked_once():
    order = slot_order([[5, 6, 7]], offsets=(1, 1, 2), seed=3)
    assert sorted(order) == [(0, 6), (0, 7)]


def test_without_captions_nothing_is_drawn_for_them(tmp_path):
    bare = write_store(tmp_path / "bare", ["a", "b"], [range(0, 54, 3)], events=())
    slots = choose_paper_slots(bare, PaperChoice(ARC)).slots
    expected = plain_choice(bare, 0)
    assert {slot.observation.instruction for slot in slots} == {NO_INSTRUCTION}
    for slot, (clip_id, frame, points, _) in zip(slots, expected, strict=True):
        anchor = cut_window(open_dataset(bare).clip(clip_id), frame, ARC).anchor_uvz
        np.testing.assert_array_equal(slot.observation.keypoints_uv, anchor[points, :2])


def test_rows_of_a_clip_with_keypoints_of_their_own_per_slot(tmp_path):
    writer = DatasetWriter(tmp_path / "queried", source="tests")
    clip = make_clip("a", T=60, N=80, occluded=0.0)
    frames = np.arange(0, 50, 10)  # five slots: offset 4 is the last
    query = np.where(clip.traces.moving, frames[np.arange(80) % 5], 0)
    query[:40][np.arange(40) % 5 == 4] = 40
    traces = replace(clip.traces, query_frame=query.astype(np.int32))
    images = {int(frame): picture(frame) for frame in frames}
    media = write_pictures(writer.media_folder("a"), images, None, relative_to=tmp_path / "queried")
    clip = replace(clip, traces=traces, media=media, provenance={"slots": "queried"})
    writer.write_item("a", [clip])
    writer.finalise()
    chosen = choose_paper_slots(tmp_path / "queried", PaperChoice(ARC, num_keypoints=8))
    (slot,) = chosen.slots
    assert slot.frame == 40
    window = cut_window(clip, 40, ARC)
    own = window.anchor_uvz[(query == 40) & traces.moving, :2]
    assert sorted(map(tuple, slot.observation.keypoints_uv)) == sorted(map(tuple, own))
    assert choose_paper_slots(tmp_path / "queried", PaperChoice(ARC, num_keypoints=9)).slots == []


class Noisy:
    """The anchor plus noise of the seed."""

    name, num_parameters = "noisy", 3

    def __init__(self):
        self.seen = []

    def predict(self, observation, num_samples=1, seed=0):
        self.seen.append(observation)
        rng = np.random.default_rng(seed)
        uv = observation.keypoints_uv
        anchor = np.concatenate([uv, np.zeros((len(uv), 1))], 1)
        uvz = (anchor[:, None] + 0.05 * rng.normal(size=(num_samples, len(uv), 32, 3))).astype(np.float32)
        return TracePrediction(uvz, np.ones(uvz.shape[:3], bool), clock=observation.clock, step=observation.step)


def test_inputs_names_and_figures(store):
    noisy = Noisy()
    report = evaluate_forecast([noisy], store, protocol="mu0-paper", step=0.005, num_samples=3, horizons=(8, 16))
    assert list(report["models"]["noisy"]) == ["parameters", "no_history"]
    for observation in noisy.seen:
        assert (observation.history_uvz, observation.depth_m, observation.keypoints_z_m, observation.K) == (None,) * 4
        assert len(observation.keypoints_uv) == 16
        assert (observation.clock, observation.step) == ("arc", 0.005)
    released = report["models"]["noisy"]["no_history"]["released"]
    assert set(released) == {"8", "16"}
    names = {f"{m}_{d}" for m in ("ade", "fde", "dtw", "frechet") for d in ("uvz", "uv", "depth")}
    names |= {f"min{m}_3_{d}" for m in ("ADE", "FDE", "DTW", "Frechet") for d in ("uvz", "uv", "depth")}
    assert set(released["8"]) == names | {"l1_abs", "l1_uv", "l1_depth", "horizon", "n_batches", "n_samples"}
    assert (released["8"]["horizon"], released["8"]["n_samples"], released["8"]["n_batches"]) == (
        8,
        report["windows"],
        2,
    )
    plain = plain_figures(choose_paper_slots(store, PaperChoice(replace(ARC, horizon=16))).slots, noisy, 3, 8)
    for name, value in plain.items():
        assert released["8"][name] == pytest.approx(value, rel=1e-5), name
    assert report["protocol"]["too_short_clips"]


def plain_figures(slots, predictor, num_samples, horizon):
    """The dossier's §4.4 as loops, on the predictions that the benchmark asked for (same noise seeds)."""
    import zlib

    rows, l1 = {}, []
    for slot in slots:
        noise = np.random.default_rng([0, zlib.crc32(slot.clip_id.encode()), 2, slot.frame]).integers(1 << 31)
        observation = replace(slot.observation, history_uvz=None, depth_m=None, keypoints_z_m=None)
        uvz = predictor.predict(observation, num_samples, int(noise)).uvz.astype(float)
        uvz[..., 2] += slot.anchor_z_m[:, None]
        batch = []
        for k, valid in enumerate(slot.valid[:, :horizon]):
            for dims, axes in (("uvz", [0, 1, 2]), ("uv", [0, 1]), ("depth", [2])):
                true = slot.true_uvz[k, :horizon][valid][:, axes].astype(float)
                if not len(true):
                    continue
                each = []
                for s in range(num_samples):
                    pred = uvz[s, k, :horizon][valid][:, axes]
                    distance = np.linalg.norm(pred - true, axis=1)
                    each.append(
                        [distance.mean(), distance[-1], dtw_reference(pred, true), frechet_reference(pred, true)]
                    )
                for name, released, values in zip(
                    ("ade", "fde", "dtw", "frechet"),
                    ("ADE", "FDE", "DTW", "Frechet"),
                    np.transpose(each),
                    strict=True,
                ):
                    rows.setdefault(f"{name}_{dims}", []).append(values[0])
                    rows.setdefault(f"min{released}_{num_samples}_{dims}", []).append(values.min())
            error = np.abs(uvz[0, k, :horizon][valid] - slot.true_uvz[k, :horizon][valid])
            batch.append((error.sum(), valid.sum()))
        l1.append(np.sum(batch, 0))
    means = [np.sum(l1[at : at + 8], 0) for at in range(0, len(l1), 8)]
    figures = {name: float(np.mean(values)) for name, values in rows.items()}
    return figures | {"l1_abs": float(np.mean([total / steps for total, steps in means]))}


def test_a_figure_that_does_not_exist_is_none():
    values = {"top1_ade_uv@8": np.array([0.5, np.nan]), "steps@8": np.array([0.0, 0.0]), "l1_uv@8": np.zeros(2)}
    found = paper_metrics(values, np.array([0, 1]), 5, (8,))["8"]
    assert found["ade_uv"] == 0.5
    assert found["ade_uvz"] is None
    assert found["l1_uv"] is None
    assert found["l1_abs"] is None


def test_noise_seeds_give_an_interval(store):
    noisy = Noisy()
    options = {"protocol": "mu0-paper", "step": 0.005, "num_samples": 2, "max_windows": 4}
    report = evaluate_forecast([noisy], store, noise_seeds=3, **options)
    found = report["models"]["noisy"]["no_history"]
    over = found["noise_seeds"]["topS_ade@32"]
    assert len(set(over["values"])) == 3
    assert over["mean"] == pytest.approx(found["metrics"]["topS_ade@32"])
    low, high = over["interval95"]
    half = 4.302653 * np.std(over["values"], ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert (low, high) == pytest.approx((over["mean"] - half, over["mean"] + half))
    single = evaluate_forecast([noisy], store, **options)["models"]["noisy"]["no_history"]
    assert single["metrics"]["topS_ade@32"] == pytest.approx(over["values"][0])
    assert single["noise_seeds"]["topS_ade@32"]["interval95"] is None
    still = report["models"]["nothing-moves"]["no_history"]["noise_seeds"]["topS_ade@32"]
    assert still["interval95"] == pytest.approx([still["mean"]] * 2)


def test_refusals(store, tmp_path):
    for fixed in ({"max_keypoints": 8}, {"keypoints": "all"}, {"slots_per_clip": 1}, {"max_clips": 1}):
        with pytest.raises(ConfigError, match="fixed by the protocol"):
            evaluate_forecast([], store, protocol="mu0-paper", **fixed)
    with pytest.raises(ConfigError, match="protocol"):
        evaluate_forecast([], store, protocol="mu1")
    with pytest.raises(ConfigError, match="noise_seeds"):
        evaluate_forecast([], store, noise_seeds=0)
    few = write_store(tmp_path / "few", ["a"], [range(0, 9, 3)])
    with pytest.raises(DatasetError, match="a has 3 of 13 frames"):
        evaluate_forecast([], few, protocol="mu0-paper", step=0.005)
