"""Codes of 1..8 bits packed densely into bytes, row by row, and back. Knows nothing of what the codes mean."""

import numpy as np
from numpy.typing import NDArray


def pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack the codes of each row, least significant bit first.

    Args:
        codes: (N, K) uint8, each below 2**bits.
        bits: 1..8.

    Returns:
        (N, ceil(K * bits / 8)) uint8; the last byte of a row is filled up with zeros.

    Raises:
        ValueError: "a code of 9 does not fit into 3 bits."
    """
    codes = np.ascontiguousarray(codes, dtype=np.uint8)
    rows, columns = codes.shape
    if codes.size and int(codes.max()) >= 2**bits:
        raise ValueError(f"a code of {int(codes.max())} does not fit into {bits} bits.")
    if bits == 8:
        return codes.copy()
    if bits in (1, 2, 4):  # whole codes in a byte: shifts instead of single bits
        per_byte = 8 // bits
        full = np.zeros((rows, -(-columns // per_byte) * per_byte), np.uint8)
        full[:, :columns] = codes
        parts = full.reshape(rows, -1, per_byte)
        packed = parts[:, :, 0].copy()
        for i in range(1, per_byte):
            packed |= parts[:, :, i] << np.uint8(i * bits)
        return packed
    if bits in (3, 6):  # whole codes in three bytes
        per_word = 24 // bits
        full = np.zeros((rows, -(-columns // per_word) * per_word), np.uint8)
        full[:, :columns] = codes
        words = np.zeros((rows, full.shape[1] // per_word), np.uint32)
        for i in range(per_word):
            words |= full[:, i::per_word].astype(np.uint32) << np.uint32(i * bits)
        three = words.astype("<u4")[:, :, None].view(np.uint8)
        return np.ascontiguousarray(three[:, :, :3].reshape(rows, 3 * words.shape[1])[:, : -(-columns * bits // 8)])
    single = np.unpackbits(codes[..., None], axis=2, bitorder="little")[:, :, :bits]
    return np.packbits(single.reshape(rows, columns * bits), axis=1, bitorder="little")


def unpack_bits(packed: NDArray[np.uint8], bits: int, columns: int) -> NDArray[np.uint8]:
    """The inverse of `pack_bits`: (N, columns) uint8, one code a byte."""
    rows = packed.shape[0]
    if bits == 8:
        return packed[:, :columns].copy()
    if bits in (1, 2, 4):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (packed[:, :, None] >> shifts) & np.uint8(2**bits - 1)
        return np.ascontiguousarray(codes.reshape(rows, -1)[:, :columns])
    if bits in (3, 6):  # whole codes in three bytes
        per_word = 24 // bits
        three = np.zeros((rows, -(-columns // per_word), 3), np.uint8)
        three.reshape(rows, 3 * three.shape[1])[:, : packed.shape[1]] = packed
        words = three[:, :, 0] | three[:, :, 1].astype(np.uint32) << 8 | three[:, :, 2].astype(np.uint32) << 16
        codes = np.empty((rows, words.shape[1], per_word), np.uint8)
        for i in range(per_word):
            codes[:, :, i] = (words >> np.uint32(i * bits)) & np.uint32(2**bits - 1)
        return np.ascontiguousarray(codes.reshape(rows, per_word * words.shape[1])[:, :columns])
    single = np.unpackbits(packed, axis=1, bitorder="little", count=columns * bits)
    whole = np.zeros((rows, columns, 8), np.uint8)
    whole[:, :, :bits] = single.reshape(rows, columns, bits)
    return np.packbits(whole, axis=2, bitorder="little")[:, :, 0]
