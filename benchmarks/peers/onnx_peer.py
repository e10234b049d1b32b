"""onnxruntime: `MatMulNBits`, the operator that its quantized language models use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import GROUP, Contender, Problem

# bits, accuracy level (4: int8 activations, 1: float32 activations)
VARIANTS = ((8, 4), (4, 4), (4, 1), (2, 4))


def _session(problem: Problem, bits: int, level: int):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rows, columns, groups = problem.rows, problem.columns, problem.columns // GROUP
    quantized = problem.quantized[bits]
    codes = quantized.packed.reshape(rows, groups, GROUP * bits // 8)  # the same packing: lowest bits first
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=bits,
        block_size=GROUP,
        accuracy_level=level,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, rows])],
        [numpy_helper.from_array(codes, "w"), numpy_helper.from_array(quantized.scale, "s")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = problem.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow the others
    del onnx
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def contenders(problem: Problem) -> list[Contender]:
    """8, 4 and 2 bits with int8 activations, and 4 bits with float32 activations."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        problem.absent["onnxruntime"] = f"{error.name} is not installed (requirements-dev.txt)"
        return []
    x = problem.x[None]

    def run(session) -> NDArray[np.float32]:
        return session.run(None, {"x": x})[0]

    found = []
    for bits, level in VARIANTS:
        activations = "int8" if level == 4 else "float32"
        name = f"onnxruntime {bits} bits, {activations} activations"
        nbytes = problem.quantized[bits].nbytes
        try:
            sessions = [_session(problem, bits, level) for _ in range(min(problem.copies(nbytes), 24))]
        except Exception as error:  # onnxruntime's own exceptions share no base class
            problem.absent[name] = str(error).splitlines()[0]
            continue
        first = sessions[0]
        call = problem.spread(run, sessions)
        found.append(Contender(name, call, nbytes, lambda s=first: run(s), problem.expected(bits), 0.02))
    return found
