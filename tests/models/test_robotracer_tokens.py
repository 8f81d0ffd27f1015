"""The two taps: features land on their tokens in order, the state is read at `<SCALE>`, nothing stays behind."""

import pytest
import torch
from torch import nn

from traceworld.errors import InvalidInputError
from traceworld.models.robotracer.tokens import Tapped, tapped

SPATIAL, SCALE = 7, 8


class Body(nn.Module):
    """Embeds and returns twice the embeddings, as (hidden,)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 4)

    def forward(self, ids):
        return (2 * self.embed(ids),)


def tap(spatial, scale=None):
    return Tapped(SPATIAL, SCALE, spatial, torch.full((4,), 5.0) if scale is None else scale)


def test_features_land_in_order_and_the_state_is_read():
    body = Body()
    ids = torch.tensor([[7, 1, 7, 8, 0], [2, 8, 3, 7, 7]])
    spatial = torch.arange(16.0).reshape(2, 2, 4)
    with tapped(body.embed, body, tap(spatial)) as inside:
        (out,) = body(ids)
    expected = body.embed(ids).detach()
    expected[0, [0, 2]], expected[1, [3, 4]] = spatial[0], spatial[1]
    expected[0, 3] = expected[1, 1] = 5.0
    torch.testing.assert_close(out.detach(), 2 * expected)
    torch.testing.assert_close(inside.state, torch.full((2, 4), 10.0))
    assert not body.embed._forward_hooks
    assert not body._forward_hooks
    torch.testing.assert_close(body(ids)[0], 2 * body.embed(ids))  # outside everything is as it was


def test_later_tokens_are_let_through_and_the_state_stays():
    body = Body()
    with tapped(body.embed, body, tap(torch.ones(1, 1, 4))) as inside:
        body(torch.tensor([[7, 8]]))
        first = inside.state
        (out,) = body(torch.tensor([[3]]))
    assert torch.equal(out, 2 * body.embed(torch.tensor([[3]])))
    assert inside.state is first


def test_several_answers_share_their_samples_features():
    body = Body()
    spatial = torch.arange(8.0).reshape(2, 1, 4)
    with tapped(body.embed, body, tap(spatial)):
        (out,) = body(torch.tensor([[7, 8]] * 6))
    torch.testing.assert_close(out[:, 0], 2 * spatial[:, 0].repeat_interleave(3, 0))


@pytest.mark.parametrize(
    ("ids", "features", "message"),
    [
        ([[7, 7, 8]], 1, "2\\] spatial tokens"),
        ([[1, 2, 8]], 1, "0\\] spatial tokens"),
        ([[7, 1, 8], [7, 8, 8]], 1, "exactly one"),
        ([[7, 1, 2]], 1, "exactly one"),
        ([[7, 1, 8]], 0, "1\\] spatial tokens"),
        ([[7, 8]] * 3, 2, "3 rows, geometry of 2"),
    ],
)
def test_what_does_not_fit_is_refused(ids, features, message):
    body = Body()
    spatial = torch.ones(features, 1, 4) if features else None
    with pytest.raises(InvalidInputError, match=message), tapped(body.embed, body, tap(spatial)):
        body(torch.tensor(ids))
    assert not body.embed._forward_hooks
