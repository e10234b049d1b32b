"""Both caches hold the same keys; one copies what it holds at every step, the other never."""

import torch
from edgeinfer import models
from edgeinfer.memory.kv_in_place import InPlaceCache, JoiningCache


def test_logits_are_equal_and_only_joining_copies():
    model = models.load("draft")
    prompt, steps = models.held_out_tokens()[None, :20], 9
    found = {}
    for kind in (JoiningCache, InPlaceCache):
        model.cache_factory = kind
        logits, cache = model.prefill(prompt)
        rows = [logits[:, -1]]
        for _ in range(steps):
            rows.append(model.decode(rows[-1].argmax(-1, keepdim=True), cache)[:, -1])
        found[kind] = torch.cat(rows), cache
    model.restore()
    (joined, old), (placed, new) = found[JoiningCache], found[InPlaceCache]
    assert torch.equal(joined, placed)
    token = new.nbytes // new.length
    assert new.bytes_copied == 0 and new.bytes_written == old.bytes_written == token * (20 + steps)
    assert old.bytes_copied == token * sum(range(20, 20 + steps))


def test_room_that_does_not_suffice_is_a_counted_copy():
    model = models.load("draft")
    cache = InPlaceCache(model.config, 1, torch.float32)
    model.prefill(models.held_out_tokens()[None, :5], cache)
    kept = cache.nbytes
    cache.reserve(2 * model.config.max_position_embeddings)
    assert cache.bytes_copied == kept
