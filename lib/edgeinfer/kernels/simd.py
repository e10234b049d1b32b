"""Vector registers for Numba: 512-bit LLVM vectors as ordinary values, and AVX-512's byte instructions on them.

Knows the registers and the machine's features; knows nothing of weights. Numba cannot find `vpdpbusd` or a byte shuffle
in a plain loop (look at `inspect_asm()`), so the few instructions that low-bit products live on are named here, once.
Every kernel that uses them has a portable twin; `available()` says which of the two runs.
Source: Intel's Software Developer's Manual, volume 2; LLVM Language Reference.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array

I8, I16, I32, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()
NEEDED_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vnni")


def missing_features(needed: tuple[str, ...] = NEEDED_FEATURES) -> list[str]:
    """The vector features of `needed` that the code generator may not use on this machine."""
    if config.CPU_FEATURES is not None:  # NUMBA_CPU_FEATURES overrules what the processor says
        present = {item[1:] for item in str(config.CPU_FEATURES).split(",") if item.startswith("+")}
    elif config.CPU_NAME not in (None, "host"):
        present = set()  # compiled for a named processor: what it has is not known here
    else:
        present = {name for name, there in llvm.get_host_cpu_features().items() if there}
    return [name for name in needed if name not in present]


def why_portable() -> str:
    """The reason why the portable kernels run, in words; empty when the vector kernels run."""
    if os.environ.get("EDGEINFER_SIMD", "1") == "0":
        return "EDGEINFER_SIMD=0 asks for the portable kernels"
    if config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set: nothing is compiled"
    missing = missing_features()
    return f"this processor has no {', '.join(missing)}" if missing else ""


def available() -> bool:
    """Whether the vector kernels run here (features present, and not switched off by EDGEINFER_SIMD=0)."""
    return not why_portable()


def choose(path: str) -> bool:
    """Resolve a `path` argument: "auto", "simd" or "portable".

    Returns:
        True for the vector kernels.

    Raises:
        ValueError: "path 'avx' is unknown; choose 'auto', 'simd' or 'portable'."
        RuntimeError: "path='simd' cannot run: this processor has no avx512vnni. Use path='auto' or 'portable'."
    """
    if path == "auto":
        return _AVAILABLE
    if path == "portable":
        return False
    if path != "simd":
        raise ValueError(f"path {path!r} is unknown; choose 'auto', 'simd' or 'portable'.")
    if reason := why_portable():
        raise RuntimeError(f"path='simd' cannot run: {reason}. Use path='auto' or 'portable'.")
    return True


_AVAILABLE = available()


def compiled(sources: Sequence[str] = (), **options: Any) -> Callable[[Callable], Callable]:
    """`numba.njit` with the interpreter lock released and the result cached on disk where a cache can be written.

    A cached kernel is used again while its own file and this one are unchanged; a kernel that inlines functions of
    other modules names their files.

    Args:
        sources: `__file__` of those modules.
        options: of `numba.njit`.
    """

    def decorate(function: Callable) -> Callable:
        try:
            kernel = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available": a read-only installation without a home
            return numba.njit(nogil=True, **options)(function)
        # Numba looks at the kernel's own file only; without this a change of an instruction here would go unnoticed.
        with contextlib.suppress(AttributeError):
            file = kernel._cache._cache_file
            stamps = [os.stat(source).st_mtime_ns for source in (__file__, *sources)]
            file._source_stamp = (file._source_stamp, *stamps)
        return kernel

    return decorate


class Vector(types.Type):
    """Numba's type of one vector register: `lanes` elements of an LLVM scalar type."""

    def __init__(self, name: str, element: ir.Type, lanes: int):
        self.element, self.lanes = element, lanes
        self.llvm = ir.VectorType(element, lanes)
        super().__init__(name=name)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, numba_type.llvm)


i8x64, i16x32 = Vector("i8x64", I8, 64), Vector("i16x32", I16, 32)
i32x16, f32x16 = Vector("i32x16", I32, 16), Vector("f32x16", F32, 16)
_U16 = ir.VectorType(I8, 16)


def _declare(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _address(context, builder, array_type, array, index, pointee):
    pointer = builder.gep(make_array(array_type)(context, builder, array).data, [index])
    return builder.bitcast(pointer, ir.PointerType(pointee))


def _lanes(numbers):
    return ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))


def _splat(builder, value, vector):
    nothing = ir.Constant(vector, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, I32(0)), nothing, _lanes([0] * vector.count))


def _make_load(vector: Vector):
    @intrinsic
    def load(typing, array, index):
        def generate(context, builder, signature, args):
            return builder.load(_address(context, builder, signature.args[0], args[0], args[1], vector.llvm), align=1)

        return vector(array, types.intp), generate

    return load


def _make_store(vector: Vector):
    @intrinsic
    def store(typing, array, index, value):
        def generate(context, builder, signature, args):
            where = _address(context, builder, signature.args[0], args[0], args[1], vector.llvm)
            builder.store(args[2], where, align=1)
            return context.get_dummy_value()

        return types.void(array, types.intp, vector), generate

    return store


def _make_splat(vector: Vector, scalar):
    @intrinsic
    def splat(typing, value):
        return vector(scalar), lambda context, builder, signature, args: _splat(builder, args[0], vector.llvm)

    return splat


def _make_binary(vector: Vector, instruction: str):
    @intrinsic
    def operation(typing, a, b):
        return vector(vector, vector), lambda context, builder, signature, args: getattr(builder, instruction)(*args)

    return operation


def _make_bitcast(source: Vector, target: Vector):
    @intrinsic
    def cast(typing, a):
        return target(source), lambda context, builder, signature, args: builder.bitcast(args[0], target.llvm)

    return cast


load_i8x64, load_f32x16, load_i32x16 = _make_load(i8x64), _make_load(f32x16), _make_load(i32x16)
store_i8x64, store_f32x16, store_i32x16 = _make_store(i8x64), _make_store(f32x16), _make_store(i32x16)
splat_i8, splat_i16 = _make_splat(i8x64, types.int8), _make_splat(i16x32, types.int16)
splat_i32, splat_f32 = _make_splat(i32x16, types.int32), _make_splat(f32x16, types.float32)
and_i8, or_i8, add_i8 = _make_binary(i8x64, "and_"), _make_binary(i8x64, "or_"), _make_binary(i8x64, "add")
and_i16 = _make_binary(i16x32, "and_")
add_i16, sub_i16 = _make_binary(i16x32, "add"), _make_binary(i16x32, "sub")
add_i32, sub_i32, mul_i32 = _make_binary(i32x16, "add"), _make_binary(i32x16, "sub"), _make_binary(i32x16, "mul")
add_f32, mul_f32 = _make_binary(f32x16, "fadd"), _make_binary(f32x16, "fmul")
as_i16 = _make_bitcast(i8x64, i16x32)


@intrinsic
def load_bf16x16(typing, array, index):
    """Sixteen bfloat16 numbers (an array of 16-bit integers), each widened to float32 by a shift."""

    def generate(context, builder, signature, args):
        where = _address(context, builder, signature.args[0], args[0], args[1], ir.VectorType(I16, 16))
        wide = builder.zext(builder.load(where, align=1), i32x16.llvm)
        return builder.bitcast(builder.shl(wide, ir.Constant(i32x16.llvm, [16] * 16)), f32x16.llvm)

    return f32x16(array, types.intp), generate


@intrinsic
def fma_f32(typing, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, signature, args):
        return builder.call(_declare(builder, "llvm.fma.v16f32", f32x16.llvm, [f32x16.llvm] * 3), args)

    return f32x16(f32x16, f32x16, f32x16), generate


@intrinsic
def shift_right(typing, a, amount):
    """Shift every 16-bit lane right (zeros come in): with a mask after it, a shift of bytes, which AVX-512 lacks."""

    def generate(context, builder, signature, args):
        lanes = ir.VectorType(I16, 32)
        by = _splat(builder, builder.trunc(args[1], I16), lanes)
        return builder.bitcast(builder.lshr(builder.bitcast(args[0], lanes), by), signature.return_type.llvm)

    return a(a, types.int64), generate


@intrinsic
def shift_left_8(typing, a):
    """Shift every 16-bit lane left by one byte."""
    by = ir.Constant(i16x32.llvm, [8] * 32)
    return i16x32(i16x32), lambda context, builder, signature, args: builder.shl(args[0], by)


@intrinsic
def shift_left_4(typing, a):
    """Shift every 16-bit lane left by four bits: with a mask after it, low halves of bytes become high ones."""

    def generate(context, builder, signature, args):
        shifted = builder.shl(builder.bitcast(args[0], i16x32.llvm), ir.Constant(i16x32.llvm, [4] * 32))
        return builder.bitcast(shifted, i8x64.llvm)

    return i8x64(i8x64), generate


def _make_broadcast(element: Vector, vector: Vector):
    @intrinsic
    def broadcast(typing, array, index):
        def generate(context, builder, signature, args):
            where = _address(context, builder, signature.args[0], args[0], args[1], element.element)
            value = _splat(builder, builder.load(where, align=1), element.llvm)
            return builder.bitcast(value, vector.llvm)

        return vector(array, types.intp), generate

    return broadcast


# The float at array[index] in all lanes (`splat_f32` of an element would think of negative indices at every load);
# the four bytes from array[index] in each of the sixteen 32-bit lanes: the operand of a dot product.
broadcast_f32, broadcast_4_bytes = _make_broadcast(f32x16, f32x16), _make_broadcast(i32x16, i8x64)


@intrinsic
def broadcast_16_bytes(typing, array, index):
    """The sixteen bytes array[index : index + 16] in each 128-bit lane: a table for `shuffle_bytes`."""

    def generate(context, builder, signature, args):
        table = builder.load(_address(context, builder, signature.args[0], args[0], args[1], _U16), align=1)
        return builder.shuffle_vector(table, ir.Constant(_U16, ir.Undefined), _lanes([i % 16 for i in range(64)]))

    return i8x64(array, types.intp), generate


@intrinsic
def load_u8_as_i32(typing, array, index):
    """Sixteen unsigned bytes, each widened to a 32-bit lane."""

    def generate(context, builder, signature, args):
        return builder.zext(
            builder.load(_address(context, builder, signature.args[0], args[0], args[1], _U16), align=1), i32x16.llvm
        )

    return i32x16(array, types.intp), generate


@intrinsic
def table_of_byte(typing):
    """0, 16, 32, 48 in the four bytes of every lane: byte j of a lane looks into the j-th of four tables of 16."""
    numbers = ir.Constant(i8x64.llvm, [0, 16, 32, 48] * 16)
    return i8x64(), lambda context, builder, signature, args: numbers


@intrinsic
def dot_u8_i8(typing, accumulator, unsigned, signed):
    """vpdpbusd: lane l gains the sum over j < 4 of unsigned[4 l + j] * signed[4 l + j]; 32 bits, no saturation."""
    # LLVM from version 21 on takes the byte operands as bytes, before as 32-bit lanes.
    operand = i8x64.llvm if llvm.llvm_version_info[0] >= 21 else i32x16.llvm

    def generate(context, builder, signature, args):
        call = _declare(builder, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, [i32x16.llvm, operand, operand])
        return builder.call(call, [args[0], *(builder.bitcast(a, operand) for a in args[1:])])

    return i32x16(i32x16, i8x64, i8x64), generate


@intrinsic
def shuffle_bytes(typing, table, index):
    """vpshufb: in each 128-bit lane, table[index & 15] (0 where the top bit of the index is set)."""

    def generate(context, builder, signature, args):
        return builder.call(_declare(builder, "llvm.x86.avx512.pshuf.b.512", i8x64.llvm, [i8x64.llvm] * 2), args)

    return i8x64(i8x64, i8x64), generate


@intrinsic
def lookup_64(typing, table, index):
    """vpermb: table[index & 63], a table of 64 bytes in one register."""

    def generate(context, builder, signature, args):
        return builder.call(_declare(builder, "llvm.x86.avx512.permvar.qi.512", i8x64.llvm, [i8x64.llvm] * 2), args)

    return i8x64(i8x64, i8x64), generate


@intrinsic
def lookup_128(typing, low, index, high):
    """vpermi2b: a table of 128 bytes in two registers, indexed by the low seven bits."""

    def generate(context, builder, signature, args):
        call = _declare(builder, "llvm.x86.avx512.vpermi2var.qi.512", i8x64.llvm, [i8x64.llvm] * 3)
        return builder.call(call, args)

    return i8x64(i8x64, i8x64, i8x64), generate


@intrinsic
def invert_where_negative(typing, value, condition):
    """Bitwise not of the bytes whose condition byte has its top bit set: the mirror of a table of odd symmetry."""

    def generate(context, builder, signature, args):
        negative = builder.icmp_signed("<", args[1], ir.Constant(i8x64.llvm, [0] * 64))
        return builder.select(negative, builder.not_(args[0]), args[0])

    return i8x64(i8x64, i8x64), generate


@intrinsic
def to_f32(typing, a):
    """Sixteen 32-bit integers as float32."""
    return f32x16(i32x16), lambda context, builder, signature, args: builder.sitofp(args[0], f32x16.llvm)


def _make_half(first: int, widen: str):
    @intrinsic
    def half(typing, a):
        def generate(context, builder, signature, args):
            nothing = ir.Constant(i16x32.llvm, ir.Undefined)
            lanes = builder.shuffle_vector(args[0], nothing, _lanes(range(first, first + 16)))
            return getattr(builder, widen)(lanes, i32x16.llvm)

        return i32x16(i16x32), generate

    return half


# lanes 0..15 and 16..31 as 32-bit lanes, unsigned and signed
low_half_u16, high_half_u16 = _make_half(0, "zext"), _make_half(16, "zext")
low_half_i16, high_half_i16 = _make_half(0, "sext"), _make_half(16, "sext")


def _make_prefetch(locality: int):
    @intrinsic
    def ask(typing, array, index):
        def generate(context, builder, signature, args):
            name = "llvm.prefetch.p0i8" if llvm.llvm_version_info[0] < 17 else "llvm.prefetch.p0"
            call = _declare(builder, name, ir.VoidType(), [ir.PointerType(I8), I32, I32, I32])
            where = _address(context, builder, signature.args[0], args[0], args[1], I8)
            builder.call(call, [where, I32(0), I32(locality), I32(1)])
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return ask


# Ask for the cache line at array[index] (an address beyond the end is harmless): into the first-level cache, or only
# into the second, where the kernel keeps the first busy with tables.
prefetch, prefetch_second_level = _make_prefetch(3), _make_prefetch(2)
