"""The small prefix: words, depth, masks, sizes."""

import torch

from traceworld.models.mu0.prefix_nano import NanoPrefix, hash_words

LOG_RANGE = torch.log(torch.tensor([0.3, 3.0]))


def test_words_are_hashed_the_same_everywhere():
    ids, known = hash_words(["Open the drawer!", "open"], 64, 6)
    assert known.tolist() == [[True, True, True], [True, False, False]]
    assert torch.equal(ids[0, 0], ids[1, 0])  # case does not matter
    assert ids[0, 0].tolist() == [36, 49]  # crc32("open") and crc32("#open"), modulo 64
    assert hash_words(["a b c d e f g h"], 64, 6)[0].shape == (1, 6, 2)
    assert hash_words(["..."], 64, 6)[1].tolist() == [[False]]


def encoded(config, batch, seed=0):
    torch.manual_seed(seed)
    return NanoPrefix(config.prefix)(batch, LOG_RANGE)


@torch.no_grad()
def test_shapes_and_positions(tiny_config, make_batch):
    batch = make_batch(tiny_config)
    batch["instruction"] = ["open the drawer", "go", "pull it"]
    prefix = encoded(tiny_config, batch)
    assert len(prefix.keys) == len(prefix.values) == 4
    assert prefix.keys[3].shape == (3, 2, 2 * 3 + 3, 8)  # 32×48 px at stride 16, and three words
    assert prefix.mask.sum(1).tolist() == [9, 7, 8]
    assert prefix.end.tolist() == [4, 2, 3]
    assert [tuple(m.shape) for m in prefix.maps] == [(3, 6, 8, 12), (3, 8, 4, 6), (3, 16, 2, 3)]
    assert prefix.summary.shape == (3, 16)


@torch.no_grad()
def test_neighbours_and_padded_words_do_not_matter(tiny_config, make_batch):
    """Each observation is encoded as if it were alone, whatever longer instruction or depth stands beside it."""
    batch = make_batch(tiny_config)
    batch["instruction"] = ["open", "close the big old drawer", "pull"]
    together = encoded(tiny_config, batch)
    for b in range(3):
        alone = {k: v[b : b + 1] for k, v in batch.items()}
        single = encoded(tiny_config, alone)
        length = single.mask.shape[1]
        for all_keys, key in zip(together.keys, single.keys, strict=True):
            torch.testing.assert_close(all_keys[b : b + 1, :, :length], key, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.summary[b : b + 1], single.summary, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_depth_words_and_picture_all_count(tiny_config, make_batch):
    batch = make_batch(tiny_config)
    base = encoded(tiny_config, batch).summary
    no_depth = encoded(tiny_config, batch | {"depth_present": torch.zeros(3, dtype=torch.bool)}).summary
    changed = (base - no_depth).abs().sum(1) > 0
    assert torch.equal(changed, batch["depth_present"])
    assert not torch.equal(base, encoded(tiny_config, batch | {"instruction": ["shut"] * 3}).summary)
    assert not torch.equal(base, encoded(tiny_config, batch | {"image": 255 - batch["image"]}).summary)


def test_depth_stem_starts_as_a_clone_and_is_trained(tiny_config, make_batch):
    torch.manual_seed(0)
    prefix = NanoPrefix(tiny_config.prefix)
    for a, b in zip(prefix.rgb_stem.parameters(), prefix.depth_stem.parameters(), strict=True):
        assert torch.equal(a, b)
    prefix(make_batch(tiny_config), LOG_RANGE).summary.square().sum().backward()
    assert all(p.grad.any() for p in prefix.depth_stem.parameters())


@torch.no_grad()
def test_any_picture_size(tiny_config, make_batch):
    batch = make_batch(tiny_config)
    batch["image"] = torch.randint(0, 255, (3, 61, 83, 3), dtype=torch.uint8)
    assert encoded(tiny_config, batch).keys[0].shape[2] == 2 * 3 + 3
