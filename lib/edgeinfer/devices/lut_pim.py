"""Multiplying inside a DRAM bank, three ways: a table in an open row, a sweep over a table's rows, and bit by bit.

Functional: products come from bits laid out as in the array, and are exact. Cost: counted row activations and column
accesses times the assumptions of `DramBank`. It knows no refresh, no command bus and no second bank.
Source: the open row and its independent columns per mat follow lut-based-pim; the figures are assumptions of this book.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DramBank:
    """One bank of an HBM-like DRAM. All figures are round assumptions; change them and look what the answer hangs on.

    Args:
        mats: mats side by side that one word line crosses.
        mat_bits: bits of a row inside a mat.
        column_bits: bits that one column access takes out of a mat.
        activate_ns: row cycle: activate, restore, precharge.
        column_ns: from one column access to the next in an open row.
        row_operation_ns: two activations back to back (copy a row, or combine three rows), then precharge.
        activate_pj: energy to activate and precharge a whole row (assumed: about 1 nJ for 1 KiB).
        column_pj_per_bit: energy to move one bit out of a mat (assumed: more than 1 pJ).
        adder_operations: row operations of a one-bit full adder made of majority and NOT (about 8 when a compiler keeps
            operands in the compute rows, 16 when each majority copies its three operands).
        and_operations: row operations of AND: copy two operands and a row of zeros, combine.
    """

    mats: int = 16
    mat_bits: int = 512
    column_bits: int = 8
    activate_ns: float = 45.0
    column_ns: float = 4.0
    row_operation_ns: float = 50.0
    activate_pj: float = 1000.0
    column_pj_per_bit: float = 1.5
    adder_operations: int = 8
    and_operations: int = 4

    @property
    def row_bits(self) -> int:
        return self.mats * self.mat_bits


@dataclass
class Cost:
    """What was done, in commands and in what they take.

    Args:
        products: multiplications done.
        activations: rows activated.
        column_accesses: column commands (each reaches all mats at once).
        time_ns: simulated time of one bank.
        activation_pj, column_pj: energy of the two.
    """

    products: int = 0
    activations: int = 0
    column_accesses: int = 0
    time_ns: float = 0.0
    activation_pj: float = 0.0
    column_pj: float = 0.0

    @property
    def energy_pj(self) -> float:
        return self.activation_pj + self.column_pj

    @property
    def ns_per_product(self) -> float:
        return self.time_ns / self.products

    @property
    def pj_per_product(self) -> float:
        return self.energy_pj / self.products

    @property
    def activations_per_product(self) -> float:
        return self.activations / self.products

    def activate(self, bank: DramBank, rows: int = 1) -> None:
        self.activations += rows
        self.time_ns += rows * bank.activate_ns
        self.activation_pj += rows * bank.activate_pj

    def columns(self, bank: DramBank, accesses: int, mats: int) -> None:
        self.column_accesses += accesses
        self.time_ns += accesses * bank.column_ns
        self.column_pj += accesses * mats * bank.column_bits * bank.column_pj_per_bit

    def row_operations(self, bank: DramBank, count: int) -> None:
        self.activations += 2 * count
        self.time_ns += count * bank.row_operation_ns
        self.activation_pj += 2 * count * bank.activate_pj

    def add(self, other: "Cost") -> None:
        for name in vars(other):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def _operand(values: NDArray, bits: int, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 1 to 8, got {bits!r}; wider operands have to be split first")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}; pass the codes of a quantized array")
    if array.size == 0:
        raise ValueError(f"{name} is empty; at least one product is needed")
    if array.min() < 0 or array.max() >= 2**bits:
        raise ValueError(
            f"{name} holds {array.min()} to {array.max()}; with {bits} bits operands must lie in 0 to {2**bits - 1}"
        )
    return array.astype(np.int64)


def _bits_of(values: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    return (values[..., None] >> np.arange(width) & 1).astype(np.uint8)


def _number_of(bit_rows: NDArray) -> NDArray[np.int64]:
    return bit_rows.astype(np.int64) @ (np.int64(1) << np.arange(bit_rows.shape[-1], dtype=np.int64))


@dataclass
class OpenTable:
    """The row of products of one scalar, laid out over the mats of a bank.

    The table has 2**bits entries of 2 * bits bits. It takes `mats_per_copy` mats; the row holds as many copies as fit,
    and each copy answers for another element of the vector at the same time. That is the trade: a bigger table leaves
    fewer copies.
    """

    scalar: int
    bits: int
    bank: DramBank
    mats_per_copy: int = field(init=False)
    copies: int = field(init=False)
    accesses: int = field(init=False)
    row: NDArray[np.uint8] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        width = 2 * self.bits
        # An entry is stored in whole column accesses, so that none straddles a mat.
        self.accesses = -(-width // self.bank.column_bits)
        slot = self.accesses * self.bank.column_bits
        per_mat = self.bank.mat_bits // slot
        if per_mat == 0:
            raise ValueError(f"an entry of {slot} bits does not fit into a mat of {self.bank.mat_bits} bits")
        self.mats_per_copy = -(-(2**self.bits) // per_mat)
        self.copies = self.bank.mats // self.mats_per_copy
        if self.copies == 0:
            raise ValueError(
                f"the {self.bits}-bit table needs {self.mats_per_copy} mats, a row has {self.bank.mats}; use fewer bits"
            )
        products = self.scalar * np.arange(2**self.bits, dtype=np.int64)
        self.row = np.zeros((self.mats_per_copy, self.bank.mat_bits), np.uint8)
        for entry, word in enumerate(_bits_of(products, width)):
            mat, place = divmod(entry, per_mat)
            self.row[mat, place * slot : place * slot + width] = word
        self._per_mat, self._slot, self._width = per_mat, slot, width

    def read(self, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the copies answer, each from its own column address."""
        mat, place = np.divmod(addresses, self._per_mat)
        columns = place[:, None] * self._slot + np.arange(self._width)
        return _number_of(self.row[mat[:, None], columns])


def open_row_multiply(
    scalar: int, vector: NDArray, bits: int, bank: DramBank | None = None
) -> tuple[NDArray[np.int64], Cost]:
    """Multiply a vector by one scalar from a table row that is activated once.

    Args:
        scalar: 0 .. 2**bits - 1, chooses the row.
        vector: (L,) integers 0 .. 2**bits - 1, the column addresses.
        bits: 1..8.
        bank: assumptions.

    Returns:
        (L,) int64 exact products, and the cost.

    Raises:
        ValueError: "vector holds 0 to 19; with 4 bits operands must lie in 0 to 15".
    """
    bank = bank or DramBank()
    vector = _operand(vector, bits, "vector")
    scalar = int(_operand(np.array([scalar]), bits, "scalar")[0])
    table, cost = OpenTable(scalar, bits, bank), Cost(products=vector.size)
    cost.activate(bank)
    out = np.empty(vector.size, np.int64)
    for start in range(0, vector.size, table.copies):
        part = slice(start, start + table.copies)
        out[part] = table.read(vector[part])
    rounds = -(-vector.size // table.copies)
    # Each copy reads one entry a round; only the mat that holds the entry moves bits.
    cost.columns(bank, rounds * table.accesses, table.copies)
    return out, cost


def sweep_multiply(
    scalar: int, vector: NDArray, bits: int, bank: DramBank | None = None
) -> tuple[NDArray[np.int64], Cost]:
    """Multiply by activating every row of the table in turn; an element keeps the row whose number it matches.

    Args, Returns, Raises: as `open_row_multiply`. A row of the table holds one entry, repeated for all elements.
    """
    bank = bank or DramBank()
    vector = _operand(vector, bits, "vector")
    scalar = int(_operand(np.array([scalar]), bits, "scalar")[0])
    per_row = bank.row_bits // (2 * bits)
    out, cost = np.zeros(vector.size, np.int64), Cost(products=vector.size)
    for start in range(0, vector.size, per_row):
        part = vector[start : start + per_row]
        latch = np.zeros((part.size, 2 * bits), np.uint8)
        for number in range(2**bits):
            word = _bits_of(np.array(scalar * number), 2 * bits)
            latch[part == number] = word
        cost.activate(bank, 2**bits)
        out[start : start + per_row] = _number_of(latch)
    return out, cost


def _majority(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
    return (a & b) | (b & c) | (a & c)


def _addition_operations(bits: int, partial_products: int, bank: DramBank) -> int:
    """Row operations to sum up partial products: the first is copied, each other one added, its carry stored."""
    if partial_products == 0:
        return 0
    return bits + (partial_products - 1) * (bits * bank.adder_operations + 1)


def bit_serial_multiply(
    left: NDArray, right: NDArray, bits: int, bank: DramBank | None = None
) -> tuple[NDArray[np.int64], Cost]:
    """Multiply two vectors with rows as bit-planes: AND for the partial products, majority and NOT for the additions.

    Args:
        left, right: (L,) integers 0 .. 2**bits - 1. If `left` is a single number, the controller knows it: it skips
            its zero bits and needs no AND.
        bits: 1..8.
        bank: assumptions.

    Returns:
        (L,) int64 exact products, and the cost; whole rows are charged, also when L fills only part of the last one.

    Raises:
        ValueError: as `open_row_multiply`, or "left has 3 elements, right has 5; pass equal lengths or one number".
    """
    bank = bank or DramBank()
    right = _operand(right, bits, "right").ravel()
    left = _operand(left, bits, "left").ravel()
    if left.size not in (1, right.size):
        raise ValueError(f"left has {left.size} elements, right has {right.size}; pass equal lengths or one number")
    known = left.size == 1
    planes = _bits_of(right, bits).T.astype(bool)
    select = _bits_of(np.broadcast_to(left, right.shape), bits).T.astype(bool)
    total = np.zeros((2 * bits, right.size), bool)
    used = [shift for shift in range(bits) if not known or select[shift][0]]
    for shift in used:
        partial = planes if known else planes & select[shift]
        if shift == used[0]:
            total[shift : shift + bits] = partial
            continue
        carry = np.zeros(right.size, bool)
        for i in range(bits):
            a, b = total[shift + i], partial[i]
            new = _majority(a, b, carry)
            total[shift + i] = _majority(~new, carry, _majority(a, b, ~carry))
            carry = new
        total[shift + bits] = carry
    operations = _addition_operations(bits, len(used), bank) + (0 if known else bits * bits * bank.and_operations)
    cost = Cost(products=right.size)
    cost.row_operations(bank, operations * -(-right.size // bank.row_bits))
    return _number_of(total.T), cost


def matvec(weight: NDArray, x: NDArray, bits: int, bank: DramBank | None = None) -> tuple[NDArray[np.int64], Cost]:
    """y = W x of unsigned codes: one open table row for each activation, which serves a whole column of W.

    Args:
        weight: (N, K) integers 0 .. 2**bits - 1.
        x: (K,) integers 0 .. 2**bits - 1.
        bits: 1..8.
        bank: assumptions.

    Returns:
        (N,) int64 exact, and the cost of the products (the additions are counted as free: near-bank adders).

    Raises:
        ValueError: "weight has 8 columns, x has 7 elements".
    """
    weight, x = _operand(weight, bits, "weight"), _operand(x, bits, "x")
    if weight.ndim != 2 or x.shape != weight.shape[1:]:
        raise ValueError(f"weight has shape {weight.shape}, x has shape {x.shape}; expected (N, K) and (K,)")
    total, cost = np.zeros(weight.shape[0], np.int64), Cost()
    for k in range(x.size):
        products, one = open_row_multiply(int(x[k]), weight[:, k], bits, bank)
        total += products
        cost.add(one)
    return total, cost


def cost_table(
    bits_range: range = range(1, 9), length: int = 8192, bank: DramBank | None = None, seed: int = 0
) -> dict[str, dict[int, Cost]]:
    """Cost of multiplying `length` elements, design by design and width by width.

    Args:
        bits_range: operand widths.
        length: elements that share one scalar.
        bank: assumptions.
        seed: of the random operands. The cost of a known scalar depends on its ones: it is the mean over all scalars.

    Returns:
        `table[design][bits]` with designs "open row", "sweep", "bit-serial" and "bit-serial, known scalar".
    """
    bank = bank or DramBank()
    rng = np.random.default_rng(seed)
    table: dict[str, dict[int, Cost]] = {
        name: {} for name in ("open row", "sweep", "bit-serial", "bit-serial, known scalar")
    }
    for bits in bits_range:
        vector, other = rng.integers(0, 2**bits, (2, length))
        table["open row"][bits] = open_row_multiply(int(other[0]), vector, bits, bank)[1]
        table["sweep"][bits] = sweep_multiply(int(other[0]), vector, bits, bank)[1]
        table["bit-serial"][bits] = bit_serial_multiply(other, vector, bits, bank)[1]
        known = Cost(products=length * 2**bits)  # every scalar once
        rows = -(-length // bank.row_bits)
        ones = [number.bit_count() for number in range(2**bits)]
        known.row_operations(bank, rows * sum(_addition_operations(bits, count, bank) for count in ones))
        table["bit-serial, known scalar"][bits] = known
    return table
