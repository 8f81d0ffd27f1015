"""The template captioner says what the numbers say."""

import pytest

from traceworld.perception.captions import TemplateCaptioner, direction, length, place
from traceworld.perception.interfaces import CaptionBackend, CaptionRequest, PartMotion


def part(shift=(0.1, 0.0, 0.0), path=0.12, points=5, metric=True, start=(0.0, 0.0), end=(0.5, 0.0)):
    return PartMotion(0, points, shift, path, metric, start, end)


def request(*parts, task="", index=0, count=1):
    return CaptionRequest(parts, 1.0, 3.0, index, count, task)


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ((0.1, 0.0, 0.0), "right"),
        ((-0.1, 0.02, 0.0), "left"),
        ((0.0, -0.2, 0.0), "up"),
        ((0.1, 0.09, 0.0), "right and down"),
        ((0.0, 0.0, 0.3), "away from the camera"),
        ((0.0, 0.2, -0.3), "down and towards the camera"),
        ((0.0, 0.0, 0.0), "nowhere"),
    ],
)
def test_direction(shift, words):
    assert direction(shift) == words


@pytest.mark.parametrize(
    ("uv", "words"), [((0, 0), "centre"), ((-0.9, 0), "left"), ((0.9, 0.9), "bottom right"), ((0, -0.5), "top")]
)
def test_place(uv, words):
    assert place((float(uv[0]), float(uv[1]))) == words


def test_length_has_its_unit():
    assert length(0.123, True) == "12 cm"
    assert length(0.034, True) == "3.4 cm"
    assert length(0.25, False) == "25 % of the image width"


def test_a_caption_holds_distance_direction_speed_and_number_of_parts():
    captioner = TemplateCaptioner()
    assert isinstance(captioner, CaptionBackend)
    caption = captioner.caption(request(part(), part(), part()))
    assert "10 cm right" in caption.caption
    assert "6.0 cm/s" in caption.caption  # 12 cm of path in 2 s
    assert "5 points" in caption.caption
    assert "2 more parts move" in caption.caption
    assert caption.before == "the part is at the centre"
    assert caption.change == "the part moved from the centre to the right"
    assert caption.source == "template"


def test_one_more_part_is_singular():
    assert "1 more part moves" in TemplateCaptioner().caption(request(part(points=1), part())).caption


def test_the_task_leads():
    caption = TemplateCaptioner().caption(request(part(), task="open the drawer.", index=1, count=3))
    assert caption.caption.startswith("open the drawer, step 2 of 3: ")
    assert not caption.interaction.startswith("open")


def test_there_and_back_and_nothing_at_all():
    captioner = TemplateCaptioner()
    back = captioner.caption(request(part(shift=(0.001, 0.0, 0.0), path=0.4)))
    assert "ends where it began" in back.interaction
    nothing = captioner.caption(request())
    assert nothing.caption == "nothing moves"
    assert nothing.change == "no change"


def test_without_depth_lengths_are_shares_of_the_image():
    assert (
        "20 % of the image width right"
        in TemplateCaptioner().caption(request(part((0.2, 0.0, 0.0), metric=False))).caption
    )


def test_merging_keeps_the_order_and_both_ends():
    captioner = TemplateCaptioner()
    first = captioner.caption(request(part(end=(0.9, 0.0))))
    last = captioner.caption(request(part((0.0, -0.2, 0.0), start=(0.9, 0.0), end=(0.9, -0.9))))
    merged = captioner.merge([first, first, last], "tidy up")
    assert merged.caption.startswith("tidy up: ")
    assert merged.interaction.count("; then ") == 1  # the repeated step is said once
    assert merged.interaction.index("right") < merged.interaction.index(" up ")
    assert (merged.before, merged.change) == (first.before, last.change)
