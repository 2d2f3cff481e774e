"""Gemma 3 as ONNX graphs, written in process from a checkpoint: the layers, and the head apart.

The layers read rows (1, n_new, hidden_size) float32 after Gemma's √hidden, extend the KV buffers in place and
return the rows after the final norm. Everything that changes between calls is an input: positions, buffers,
the adapters' matrices. Matrices of quantised checkpoints stay in their files, of which the arrays are views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from adapters.composition import SITES
from pushkin_runtime.engines.onnx_weights import Checkpoint, QuantizedMatrix
from pushkin_runtime.model_config import ModelConfig
from pushkin_runtime.model_store import expected_shapes

CONTRIB = "com.microsoft"
OPSETS = {"": 21, CONTRIB: 1}
IR_VERSION = 10
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level
FLOAT_ACTIVATIONS = 1
EXPANDED = 0  # or no MatMulNBits at all: every matrix in float32
PARTS = ("key", "value")
NOWHERE = (
    1 << 40
)  # in a file that must be there: who reads an array from it, and not as it is given, fails
INLINE_BYTES = 1024  # a protobuf message ends at 2 GB: what is larger stays outside of it


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A serialised model and the arrays that it names but does not hold."""

    model: bytes
    arrays: dict[str, NDArray[Any]]


def layers_graph(config: ModelConfig, checkpoint: Checkpoint, accuracy: int) -> Graph:
    """Return the graph of all layers. accuracy: of the activations that quantised matrices are multiplied with."""
    return _Layers(config, checkpoint, accuracy).graph()


def head_graph(config: ModelConfig, checkpoint: Checkpoint, accuracy: int) -> Graph:
    """Return the graph from rows (n, hidden_size) after the final norm to logits (n, vocab_size)."""
    builder = _Builder(checkpoint, accuracy, n_outer=1)
    builder.input("hidden", TensorProto.FLOAT, ["n", config.hidden_size])
    module = "embed_tokens" if config.tied_embeddings else "lm_head"
    logits = builder.linear("hidden", module)
    return builder.finish({"logits": (logits, TensorProto.FLOAT, ["n", config.vocab_size])})


def kv_name(direction: str, layer: int, part: str) -> str:
    """Return the name of a KV buffer: direction "past" or "present", part "key" or "value"."""
    return f"{direction}.{layer}.{part}"


def lora_name(layer: int, site: str, part: str) -> str:
    """Return the name of an adapter input; part: "a", "factors", "widths" or "b." and a member of the site."""
    return f"layers.{layer}.{site}.lora.{part}"


@dataclass(slots=True, eq=False)
class _Builder:
    """Nodes and what they read, in the making. n_outer: axes of the rows before their last."""

    checkpoint: Checkpoint
    accuracy: int
    n_outer: int
    nodes: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    initializers: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def op(self, kind: str, inputs: Sequence[str], *, domain: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its one output."""
        return self.ops(kind, inputs, 1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, inputs: Sequence[str], n_out: int, *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node; return the names of its outputs."""
        name = f"{kind}.{len(self.nodes)}"
        outputs = [f"{name}.{i}" for i in range(n_out)]
        self.node(kind, inputs, outputs, domain=domain, **attributes)
        return outputs

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Add a node whose outputs have these names; "" leaves one out."""
        name = f"{kind}.{len(self.nodes)}"
        node = helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes)
        self.nodes.append(node)

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare an input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Declare a constant, once."""
        if name in self.initializers:
            return name
        if value.nbytes <= INLINE_BYTES:
            self.initializers[name] = numpy_helper.from_array(value, name)
            return name
        dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
        outside = TensorProto(name=name, data_type=dtype, dims=value.shape)
        outside.data_location = TensorProto.EXTERNAL
        outside.external_data.add(key="location", value=self.checkpoint.config.name)
        outside.external_data.add(key="offset", value=str(NOWHERE))
        self.initializers[name] = outside
        self.arrays[name] = np.ascontiguousarray(value)
        return name

    def linear(self, x: str, module: str) -> str:
        """x: (…, in) → (…, out)."""
        if self.accuracy != EXPANDED and self.checkpoint.is_quantized(module):
            return self._quantized_linear(x, module, self.checkpoint.quantized(module))
        weight = self.checkpoint.rows(module, slice(None))
        return self.op("MatMul", [x, self.constant(f"{module}.weight", weight.T)])

    def norm(self, x: str, name: str, epsilon: float) -> str:
        """RMS norm over the last axis with Gemma's (1 + w)."""
        kind, scale = "SimplifiedLayerNormalization", self.norm_scale(name)
        return self.op(kind, [x, scale], axis=-1, epsilon=epsilon, stash_type=1)

    def norm_scale(self, name: str) -> str:
        """Return the constant (1 + w) of a norm."""
        return self.constant(name, 1.0 + self.checkpoint.tensor(name).astype(np.float32))

    def finish(self, outputs: dict[str, tuple[str, int, Sequence[int | str]]]) -> Graph:
        """outputs: name in the model → (name in the graph, dtype, shape)."""
        renamed = [
            helper.make_node("Identity", [inner], [name]) if inner != name else None
            for name, (inner, _, _) in outputs.items()
        ]
        graph = helper.make_graph(
            self.nodes + [node for node in renamed if node is not None],
            "gemma3",
            self.inputs,
            [
                helper.make_tensor_value_info(name, dtype, shape)
                for name, (_, dtype, shape) in outputs.items()
            ],
            initializer=list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return Graph(model.SerializeToString(), self.arrays)

    def _quantized_linear(self, x: str, module: str, matrix: QuantizedMatrix) -> str:
        n_out, n_groups = matrix.scales.shape
        inputs = [x, self.constant(f"{module}.codes", matrix.codes)]
        inputs.append(self.constant(f"{module}.scales", self.checkpoint.spill(matrix.scales)))
        if matrix.zeros is not None:
            inputs.append(self.constant(f"{module}.zeros", self.checkpoint.spill(matrix.zeros)))
        y = self.op(
            "MatMulNBits",
            inputs,
            domain=CONTRIB,
            K=n_groups * matrix.group_size,
            N=n_out,
            bits=matrix.bits,
            block_size=matrix.group_size,
            accuracy_level=self.accuracy,
        )
        if matrix.rest is None:
            return y
        rest = self.constant(f"{module}.rest", matrix.rest)
        return self.op("Add", [y, self.op("MatMul", [self._group_sums(x, matrix), rest])])

    def _group_sums(self, x: str, matrix: QuantizedMatrix) -> str:
        """x: (…, in) → (…, n_groups), the sum of each group's inputs; made once for what reads the same rows."""
        name = f"{x}.sums"
        if not any(name in node.output for node in self.nodes):
            axes = np.array([-1], np.int64)
            shape = np.array([*[0] * self.n_outer, -1, matrix.group_size], np.int64)
            grouped = self.op("Reshape", [x, self.constant(f"{name}.shape", shape)])
            summed = [grouped, self.constant("last_axis", axes)]
            self.node("ReduceSum", summed, [name], keepdims=0)
        return name


class _Layers:
    """The layers' graph in the making."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, accuracy: int) -> None:
        self._config = config
        self._builder = _Builder(checkpoint, accuracy, n_outer=2)
        self._modules = expected_shapes(config)

    def graph(self) -> Graph:
        c, b = self._config, self._builder
        b.input("rows", TensorProto.FLOAT, [1, "n_new", c.hidden_size])
        b.input("positions", TensorProto.INT64, [1, "n_new"])
        for kind in ("global", "local"):
            b.input(f"{kind}.last", TensorProto.INT32, [1])
            b.input(f"{kind}.total", TensorProto.INT32, [])
            b.input(f"{kind}.mask", TensorProto.FLOAT, [1, 1, "n_new", f"{kind}.n_seen"])
            for table in ("cos", "sin"):
                b.input(f"{kind}.{table}", TensorProto.FLOAT, ["n_table", c.head_dim // 2])
        outputs: dict[str, tuple[str, int, Sequence[int | str]]] = {}
        x, h = "rows", b.norm("rows", "layers.0.input_layernorm.weight", c.rms_norm_eps)
        for i in range(c.n_layers):
            x, h = self._layer(i, x, h)
        outputs["hidden"] = (h, TensorProto.FLOAT, [1, "n_new", c.hidden_size])
        for i in range(c.n_layers):
            for part in PARTS:
                name = kv_name("present", i, part)
                outputs[name] = (name, TensorProto.FLOAT, self._kv_shape(i))
        return b.finish(outputs)

    def _layer(self, i: int, x: str, h: str) -> tuple[str, str]:
        """x: the residual stream, h: the same after this layer's first norm → both for the next layer."""
        b, p = self._builder, f"layers.{i}."
        h = self._normed(self._attention(i, h), p + "post_attention_layernorm.weight")
        x, h = self._add_and_norm(x, h, p + "pre_feedforward_layernorm.weight")
        gate, up = self._site(i, "mlp.gate_up", h)
        h = b.op("Mul", [b.op("Gelu", [gate], approximate="tanh"), up])
        (h,) = self._site(i, "mlp.down", h)
        h = self._normed(h, p + "post_feedforward_layernorm.weight")
        is_last = i + 1 == self._config.n_layers
        following = "norm.weight" if is_last else f"layers.{i + 1}.input_layernorm.weight"
        return self._add_and_norm(x, h, following)

    def _attention(self, i: int, h: str) -> str:
        c, b, p = self._config, self._builder, f"layers.{i}.self_attn."
        q, k, v = self._site(i, "self_attn.qkv", h)
        kind = "global" if c.is_global(i) else "local"
        past = [
            b.input(kv_name("past", i, part), TensorProto.FLOAT, self._kv_shape(i))
            for part in PARTS
        ]
        tables = [f"{kind}.cos", f"{kind}.sin"]
        q, k = self._head_norm(q, p + "q_norm.weight"), self._head_norm(k, p + "k_norm.weight")
        out = f"{p}out"
        b.node(
            "GroupQueryAttention",
            [q, k, v, *past, f"{kind}.last", f"{kind}.total", *tables, "positions", f"{kind}.mask"],
            [out, kv_name("present", i, "key"), kv_name("present", i, "value")],
            domain=CONTRIB,
            num_heads=c.n_heads,
            kv_num_heads=c.n_kv_heads,
            do_rotary=1,
            scale=c.query_pre_attn_scalar**-0.5,
        )
        (out,) = self._site(i, "self_attn.o", out)
        return out

    def _site(self, i: int, site: str, x: str) -> list[str]:
        """The outputs of the matrices that read `x`, adapters included."""
        b, p = self._builder, f"layers.{i}."
        members = SITES[site]
        n_out = {m: self._modules[f"{p}{m}.weight"] for m in members}
        n_in = n_out[members[0]][1]  # type: ignore[misc]  # a matrix
        a = b.input(lora_name(i, site, "a"), TensorProto.FLOAT, [n_in, f"{p}{site}.rank"])
        factors = b.input(lora_name(i, site, "factors"), TensorProto.FLOAT, [f"{p}{site}.rank"])
        scaled = b.op("Mul", [b.op("MatMul", [x, a]), factors])
        shares = [scaled]
        if len(members) > 1:
            widths = b.input(lora_name(i, site, "widths"), TensorProto.INT64, [len(members)])
            shares = b.ops("Split", [scaled, widths], len(members), axis=-1)
        outputs = []
        for member, share in zip(members, shares, strict=True):
            shape: list[int | str] = [f"{p}{member}.rank", n_out[member][0]]
            matrix = b.input(lora_name(i, site, f"b.{member}"), TensorProto.FLOAT, shape)
            base = b.linear(x, p + member)
            outputs.append(b.op("Add", [base, b.op("MatMul", [share, matrix])]))
        return outputs

    def _head_norm(self, x: str, name: str) -> str:
        """x: (1, n_new, n * head_dim) → the same, each head normed by itself."""
        b = self._builder
        apart = np.array([0, 0, -1, self._config.head_dim], np.int64)
        heads = b.op("Reshape", [x, b.constant("heads", apart)])
        together = b.constant("rows_of_heads", np.array([0, 0, -1], np.int64))
        return b.op("Reshape", [self._normed(heads, name), together])

    def _normed(self, x: str, name: str) -> str:
        return self._builder.norm(x, name, self._config.rms_norm_eps)

    def _add_and_norm(self, x: str, h: str, name: str) -> tuple[str, str]:
        """Return x + h, and that after a norm."""
        b = self._builder
        total, normed = f"{name}.sum", f"{name}.normed"
        b.node(
            "SkipSimplifiedLayerNormalization",
            [x, h, b.norm_scale(name)],
            [normed, "", "", total],
            domain=CONTRIB,
            epsilon=self._config.rms_norm_eps,
        )
        return total, normed

    def _kv_shape(self, i: int) -> list[int | str]:
        c = self._config
        kind = "global" if c.is_global(i) else "local"
        return [1, c.n_kv_heads, f"{kind}.capacity", c.head_dim]
