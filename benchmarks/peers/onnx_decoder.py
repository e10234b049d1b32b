"""onnxruntime decoding the same 4-bit weights: the graph that its language models are exported to, built by hand.

Per layer: norm, `MatMulNBits` of q, k and v together, `GroupQueryAttention` with rotation and its cache, output, norm,
gate and up together, down. Keys and values go in and come out of every step in one buffer, so that nothing is copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from edgeinfer.kernels import QuantizedModel, QuantizedWeight, quantize_groupwise


class OnnxDecoder:
    """Greedy decoding of one sequence by onnxruntime.

    Args:
        model: the `Decoder` whose embedding, norms and rotation are used.
        found: its quantized layers (4 bits).
        accuracy_level: 4, int8 activations; 1, float32.
        threads: of onnxruntime.
        capacity: tokens that the cache can hold.
    """

    def __init__(
        self, model: Any, found: QuantizedModel, accuracy_level: int = 4, threads: int = 1, capacity: int = 256
    ) -> None:
        import onnxruntime

        self.config, self.level, self.capacity = model.config, accuracy_level, capacity
        self._tensors = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
        self._cos, self._sin = (table[:capacity].float().numpy() for table in model.rotation())
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            self._graph(found).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        new = onnxruntime.OrtValue.ortvalue_from_numpy
        self._binding, self._next = self._session.io_binding(), new(np.zeros((1, 1), np.int64))
        self._binding.bind_ortvalue_output("next", self._next)
        shape = (1, self.config.num_key_value_heads, capacity, self.config.head_dim)
        for name in self._names:  # the same buffer goes in and comes out: the operator appends in place
            cache = new(np.zeros(shape, np.float32))
            self._binding.bind_ortvalue_input(name, cache)
            self._binding.bind_ortvalue_output(f"{name}.new", cache)

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _node(self, kind: str, inputs: list[str], outputs: list[str], domain: str = "com.microsoft", **fields: Any):
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **fields))
        return outputs[0]

    def _product(self, x: str, parts: list[QuantizedWeight], name: str) -> str:
        first = parts[0]
        columns, rows = first.shape[1], sum(part.shape[0] for part in parts)
        groups = columns // first.group_size
        codes = np.concatenate([p.packed.reshape(p.shape[0], groups, -1) for p in parts])
        scale = np.concatenate([p.scale for p in parts])
        inputs = [x, self._constant(f"{name}.w", codes), self._constant(f"{name}.s", scale)]
        fields = {"K": columns, "N": rows, "bits": first.bits, "block_size": first.group_size}
        return self._node("MatMulNBits", inputs, [f"{name}.y"], **fields, accuracy_level=self.level)

    def _norm(self, x: str, weight: str, name: str, skip: str | None = None) -> tuple[str, str]:
        """Norm of x, or of x + skip; returns the result and the sum."""
        scale = self._constant(f"{name}.n", self._tensors[f"model.{weight}.weight"])
        eps = self.config.rms_norm_eps
        if skip is None:
            self._node("SimplifiedLayerNormalization", [x, scale], [f"{name}.h"], "", epsilon=eps, axis=-1)
            return f"{name}.h", x
        outputs = [f"{name}.h", "", "", f"{name}.sum"]
        self._node("SkipSimplifiedLayerNormalization", [x, skip, scale], outputs, epsilon=eps)
        return outputs[0], outputs[3]

    def _graph(self, found: QuantizedModel):
        from onnx import TensorProto, helper

        config, half = self.config, self.config.head_dim // 2
        embedding = self._constant("embedding", self._tensors["model.embed_tokens.weight"])
        cos = self._constant("cos", self._cos[:, :half])
        sin = self._constant("sin", self._sin[:, half:])
        self._node("Gather", [embedding, "token"], ["x"], "")
        hidden, skip = "x", None
        for n in range(config.num_hidden_layers):
            at = f"layers.{n}"
            weights = {name.split(".")[-1]: w for name, w in found.weights.items() if name.startswith(at + ".")}
            normed, hidden = self._norm(hidden, f"{at}.input_layernorm", f"{at}.a", skip)
            qkv = self._product(normed, [weights[f"{part}_proj"] for part in "qkv"], f"{at}.qkv")
            past = [f"{at}.key", f"{at}.value"]
            self._node(
                "GroupQueryAttention",
                [qkv, "", "", *past, "seqlens_k", "total", cos, sin],
                [f"{at}.mixed", f"{past[0]}.new", f"{past[1]}.new"],
                num_heads=config.num_attention_heads,
                kv_num_heads=config.num_key_value_heads,
                do_rotary=1,
            )
            out = self._product(f"{at}.mixed", [weights["o_proj"]], f"{at}.o")
            normed, hidden = self._norm(hidden, f"{at}.post_attention_layernorm", f"{at}.b", out)
            gate_up = self._product(normed, [weights["gate_proj"], weights["up_proj"]], f"{at}.gate_up")
            self._node("Split", [gate_up], [f"{at}.gate", f"{at}.up"], "", axis=-1, num_outputs=2)
            self._node("QuickGelu", [f"{at}.gate"], [f"{at}.silu"], alpha=1.0)  # x * sigmoid(1.0 x), fused
            self._node("Mul", [f"{at}.silu", f"{at}.up"], [f"{at}.act"], "")
            skip = self._product(f"{at}.act", [weights["down_proj"]], f"{at}.down")
        normed, _ = self._norm(hidden, "norm", "final", skip)
        table = self._tensors.get("lm_head.weight", self._tensors["model.embed_tokens.weight"])
        logits = self._product(normed, [quantize_groupwise(table, 8, found.group_size)], "head")
        self._node("ArgMax", [logits], ["next"], "", axis=-1, keepdims=0)
        cache = [1, config.num_key_value_heads, self.capacity, config.head_dim]
        names = [f"layers.{n}.{part}" for n in range(config.num_hidden_layers) for part in ("key", "value")]
        inputs = [
            helper.make_tensor_value_info("token", TensorProto.INT64, [1, 1]),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
            helper.make_tensor_value_info("total", TensorProto.INT32, [1]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in names),
        ]
        outputs = [
            helper.make_tensor_value_info("next", TensorProto.INT64, [1, 1]),
            *(helper.make_tensor_value_info(f"{name}.new", TensorProto.FLOAT, cache) for name in names),
        ]
        graph = helper.make_graph(self._nodes, "decoder", inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        made = helper.make_model(graph, opset_imports=opsets)
        made.ir_version = 8
        self._names = names
        return made

    def step(self, token: int, position: int) -> int:
        """Append a token at a position; return the most probable next one."""
        values = {
            "token": np.array([[token]], np.int64),
            "seqlens_k": np.array([position], np.int32),  # tokens before this one, as the operator counts them
            "total": np.array([position + 1], np.int32),
        }
        for name, value in values.items():
            self._binding.bind_cpu_input(name, value)
        self._session.run_with_iobinding(self._binding)
        return int(self._next.numpy()[0, 0])

    def generate(self, prompt: list[int], max_new_tokens: int) -> list[int]:
        """Continue a prompt greedily from an empty cache."""
        tokens = list(prompt)
        for position, token in enumerate(tokens):
            following = self.step(token, position)
        for _ in range(max_new_tokens):
            tokens.append(following)
            following = self.step(following, len(tokens) - 1)
        return tokens
