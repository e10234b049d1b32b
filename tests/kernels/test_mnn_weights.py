"""The zero point folds exactly, and a model whose embedding stays in its file has the same logits."""

import numpy as np
import pytest
import torch
from edgeinfer import kernels, models
from edgeinfer.kernels.mnn_weights import (
    FileEmbedding,
    combine,
    folded_dot,
    resident_16_bit,
    subtracted_dot,
)
from edgeinfer.models.checkpoint import find_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file


@given(st.integers(1, 7), st.integers(1, 70), st.integers(2, 8), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_folding_the_zero_point_with_the_activation_sum_is_exact(rows, columns, bits, seed):
    rng = np.random.default_rng(seed)
    codes, zero = rng.integers(0, 2**bits, (rows, columns)), rng.integers(0, 2**bits, rows)
    x = rng.integers(-127, 128, columns)
    assert np.array_equal(folded_dot(codes, zero, x), subtracted_dot(codes, zero, x))


def test_the_number_of_columns_in_place_of_the_activation_sum_is_wrong():
    codes, zero, x = np.full((1, 4), 5), np.array([3]), np.array([1, -1, 2, -2])
    assert folded_dot(codes, zero, x)[0] == 0 != codes[0] @ x - zero[0] * 4


@pytest.mark.parametrize("bits", [4, 8])
def test_the_kernel_computes_the_folded_sum_to_the_last_unit(rng, bits, path):
    codes, zero = rng.integers(0, 2**bits, (70, 64)), rng.integers(0, 2**bits, (70, 1))
    x = rng.integers(-127, 128, 64).astype(np.float32)
    x[0] = 127  # the activations' scale is then 1
    weight = kernels.from_codes(codes, np.ones((70, 1), np.float32), zero, bits, 64, False)
    found = kernels.matmul(kernels.pack(weight), x, path=path)
    assert np.array_equal(found, folded_dot(codes, zero[:, 0], x.astype(int)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_come_from_the_file_as_they_stand_there(tmp_path, dtype):
    table = torch.randn(30, 8).to(dtype)
    save_file({"other": torch.zeros(3), "table": table}, tmp_path / "m.safetensors")
    with FileEmbedding(tmp_path / "m.safetensors", "table") as embedding:
        tokens = np.array([3, 29, 3, 0])
        assert np.array_equal(embedding.rows(tokens), table.float().numpy()[tokens])
        assert embedding.rows_read == 3 and embedding.bytes_read == 3 * 8 * table.element_size()
        assert embedding.table_bytes == table.nbytes
        assert embedding.rows(np.empty(0, int)).shape == (0, 8)


def test_logits_are_the_same_bits_with_the_embedding_in_its_file():
    model, tokens = models.load("draft"), models.held_out_tokens()[None, :40]
    before, _ = model.prefill(tokens)
    with FileEmbedding(find_folder("draft") / "model.safetensors") as embedding:
        model.embed = embedding
        after, cache = model.prefill(tokens)
        assert torch.equal(before, after)
        read = embedding.bytes_read
        model.decode(tokens[:, :1], cache)
        assert embedding.bytes_read - read == embedding.row_bytes  # one row for one token


def test_combined_widths_leave_less_in_memory_and_restore_gives_the_model_back():
    model, tokens = models.load("draft"), models.held_out_tokens()[None, :64]
    before, _ = model.prefill(tokens)
    head = model.state_dict()["model.embed_tokens.weight"].float().numpy()
    whole, small = resident_16_bit(model), combine(model, head)
    assert small.embedding == 0 and small.layers < whole.layers / 3 and small.head < 0.6 * whole.head
    assert small.total < whole.total / 2
    after, _ = model.prefill(tokens)
    assert (before - after).abs().max() > 0 and (before.argmax(-1) == after.argmax(-1)).float().mean() > 0.5
    model.restore()
    assert torch.equal(model.prefill(tokens)[0], before)


def broken(tmp_path, how):
    path = tmp_path / "m.safetensors"
    save_file({"table": torch.zeros(4, 8), "row": torch.zeros(4), "codes": torch.zeros(2, 2, dtype=torch.int8)}, path)
    data = path.read_bytes()
    if how == "cut":
        data = data[:-8]
    elif how == "header":
        data = data[:20]
    elif how == "foreign":
        data = (40).to_bytes(8, "little") + b"x" * 100
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("how", "name", "says"),
    [
        ("", "x", "has no tensor 'x'; the first one is"),
        ("", "row", "row must be a matrix of BF16, F16, F32"),
        ("", "codes", "codes must be a matrix .* it is I8"),
        ("cut", "table", "ends inside table|has no tensor|header"),
        ("header", "table", "its header is cut off"),
        ("foreign", "table", "is no safetensors file"),
    ],
)
def test_a_file_that_is_wrong_gets_one_sentence(tmp_path, how, name, says):
    with pytest.raises(ValueError, match=says):
        FileEmbedding(broken(tmp_path, how), name)


def test_wrong_tokens_and_a_closed_file_get_one_sentence(tmp_path):
    embedding = FileEmbedding(broken(tmp_path, ""), "table")
    with pytest.raises(ValueError, match="token 4 is beyond the vocabulary of 4"):
        embedding.rows(np.array([0, 4]))
    embedding.close()
    with pytest.raises(ValueError, match="was closed; open it again"):
        embedding.rows(np.array([0]))
