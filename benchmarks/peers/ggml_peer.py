"""llama.cpp: ggml's matrix product on its own weight formats, driven through ctypes.

The libraries come with the package llama-cpp-python; the package itself is not imported. Weights are quantized by ggml.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from edgeinfer.kernels import ternarize
from numpy.typing import NDArray

from . import Contender, Problem

# name -> (number of the type in ggml.h, repacked for vectors, relative error that its quantization of noise may have);
# the ternary types (tq) are given ternary weights, which they hold exactly
VARIANTS = {
    "q8_0": (8, False, 0.02),
    "q4_0": (2, False, 0.2),
    "q4_0 repacked": (2, True, 0.2),
    "q2_K": (10, False, 0.5),
    "q2_K repacked": (10, True, 0.5),
    "tq1_0": (34, False, 0.02),
    "tq2_0": (35, False, 0.02),
}
REPACK = "_Z35ggml_backend_cpu_repack_buffer_typev"  # not in the C interface; the name as the compiler mangles it
POINTER, INT64, SIZE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t


class _Parameters(ctypes.Structure):
    _fields_ = (("size", SIZE), ("buffer", POINTER), ("no_alloc", ctypes.c_bool))


def _library() -> SimpleNamespace:
    """The functions that are needed, with their types.

    Raises:
        OSError, ImportError, AttributeError: when the package, a library or a function is missing.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise ImportError("llama-cpp-python is not installed (benchmarks/requirements.txt says how)")
    folder = Path(spec.origin).parent / "lib"
    base = ctypes.CDLL(str(folder / "libggml-base.so"), ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"), ctypes.RTLD_GLOBAL)

    def function(library, name, result, *arguments):
        found = getattr(library, name)
        found.restype, found.argtypes = result, arguments
        return found

    api = SimpleNamespace(
        init=function(base, "ggml_init", POINTER, _Parameters),
        tensor=function(base, "ggml_new_tensor_2d", POINTER, POINTER, ctypes.c_int, INT64, INT64),
        multiply=function(base, "ggml_mul_mat", POINTER, POINTER, POINTER, POINTER),
        graph=function(base, "ggml_new_graph", POINTER, POINTER),
        expand=function(base, "ggml_build_forward_expand", None, POINTER, POINTER),
        allocate_as=function(base, "ggml_backend_alloc_ctx_tensors_from_buft", POINTER, POINTER, POINTER),
        allocate=function(base, "ggml_backend_alloc_ctx_tensors", POINTER, POINTER, POINTER),
        write=function(base, "ggml_backend_tensor_set", None, POINTER, POINTER, SIZE, SIZE),
        read=function(base, "ggml_backend_tensor_get", None, POINTER, POINTER, SIZE, SIZE),
        quantize=function(
            base, "ggml_quantize_chunk", SIZE, ctypes.c_int, POINTER, POINTER, INT64, INT64, INT64, POINTER
        ),
        row_size=function(base, "ggml_row_size", SIZE, ctypes.c_int, INT64),
        type_name=function(base, "ggml_type_name", ctypes.c_char_p, ctypes.c_int),
        backend=function(cpu, "ggml_backend_cpu_init", POINTER),
        set_threads=function(cpu, "ggml_backend_cpu_set_n_threads", None, POINTER, ctypes.c_int),
        compute=function(base, "ggml_backend_graph_compute", ctypes.c_int, POINTER, POINTER),
        plain=function(base, "ggml_backend_cpu_buffer_type", POINTER),
        repacked=function(cpu, REPACK, POINTER) if hasattr(cpu, REPACK) else None,
    )
    function(cpu, "ggml_cpu_init", None)()
    return api


class Product:
    """One graph per copy of the weights, all with the same input."""

    def __init__(self, api: SimpleNamespace, problem: Problem, variant: str, weight: NDArray[np.float32]):
        number, repack, _ = VARIANTS[variant]
        known = api.type_name(number)
        if known is None or known.decode() != variant.split()[0]:
            raise ValueError(f"this build of ggml numbers its types differently: {number} is {known}")
        if repack and api.repacked is None:
            raise ValueError("this build of ggml does not repack weights")
        self.api, self.rows = api, problem.rows
        self.backend = api.backend()
        api.set_threads(self.backend, problem.threads)
        self.nbytes = api.row_size(number, problem.columns) * problem.rows
        quantized = np.empty(self.nbytes, np.uint8)
        api.quantize(number, weight.ctypes.data, quantized.ctypes.data, 0, problem.rows, problem.columns, None)
        storage = api.init(_Parameters(1 << 20, None, True))
        copies = min(problem.copies(self.nbytes), 200)
        weights = [api.tensor(storage, number, problem.columns, problem.rows) for _ in range(copies)]
        if not api.allocate_as(storage, api.repacked() if repack else api.plain()):
            raise MemoryError("ggml could not allocate the weights")
        for tensor in weights:
            api.write(tensor, quantized.ctypes.data, 0, self.nbytes)
        work = api.init(_Parameters(128 << 20, None, True))
        x = api.tensor(work, 0, problem.columns, 1)
        self.outputs = [api.multiply(work, tensor, x) for tensor in weights]
        self.graphs = []
        for output in self.outputs:
            graph = api.graph(work)
            api.expand(graph, output)
            self.graphs.append(graph)
        api.allocate(work, self.backend)
        row = np.ascontiguousarray(problem.x)
        api.write(x, row.ctypes.data, 0, row.nbytes)

    def run(self, graph: int) -> None:
        self.api.compute(self.backend, graph)

    def result(self) -> NDArray[np.float32]:
        self.run(self.graphs[0])
        y = np.empty(self.rows, np.float32)
        self.api.read(self.outputs[0], y.ctypes.data, 0, y.nbytes)
        return y


def contenders(problem: Problem) -> list[Contender]:
    """llama.cpp's formats of 8, 4, 2 bits and ternary."""
    try:
        api = _library()
    except (ImportError, OSError, AttributeError) as error:
        problem.absent["llama.cpp"] = str(error)
        return []
    ternary, scale = ternarize(problem.weight)
    found = []
    for variant, (_, _, tolerance) in VARIANTS.items():
        weight = ternary * scale[:, None] if variant.startswith("tq") else problem.weight
        try:
            product = Product(api, problem, variant, weight)
        except (ValueError, MemoryError) as error:
            problem.absent[f"llama.cpp {variant}"] = str(error)
            continue
        call = problem.spread(product.run, product.graphs)
        exact = weight.astype(np.float64) @ problem.x
        found.append(Contender(f"llama.cpp {variant}", call, product.nbytes, product.result, exact, tolerance))
    return found
