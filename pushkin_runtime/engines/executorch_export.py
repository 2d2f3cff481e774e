"""A checkpoint → an ExecuTorch program (`.pte`): XNNPACK for the matrices, attention through a pointer.

A program has four methods: `forward` (rows in, rows out, see `executorch_graph.Body`), `head` (rows → logits),
and two that return what it was made of: `format` and `digest`. Embeddings and tokenizer stay in the model's folder.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import OutputKind

from pushkin_runtime.engines.executorch_graph import LINEARS, Body, Head, Parts
from pushkin_runtime.model_config import ModelConfig
from pushkin_runtime.model_store import expected_shapes

FORMAT = 1  # of the methods' inputs
MAX_ROWS = 512  # rows of one call of `forward`: what its activations are planned for
MAX_HEAD_ROWS = 16
MAX_RANK = 1024


def export_program(
    parts: Parts, digest: str, lora_dtype: torch.dtype, kv_dtype: torch.dtype
) -> Any:
    """Return the program of a checkpoint, to be written with `write_program`.

    digest: of the checkpoint. Takes seconds a layer and several times the weights' memory.
    """
    with _quiet():
        import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401 - registers the attention
        from executorch.exir import (
            EdgeCompileConfig,
            ExecutorchBackendConfig,
            to_edge_transform_and_lower,
        )
        from executorch.exir.passes import MemoryPlanningPass

        from pushkin_runtime.engines.executorch_partition import partitioner

        edge = to_edge_transform_and_lower(
            {
                "forward": _export_body(parts, lora_dtype, kv_dtype),
                "head": _export_head(parts),
            },
            partitioner=[partitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
            constant_methods={"format": FORMAT, "digest": digest},
        )
        _write_through(edge.exported_program("forward"))
        return edge.to_executorch(
            ExecutorchBackendConfig(
                memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False)
            )
        )


def _export_body(parts: Parts, lora_dtype: torch.dtype, kv_dtype: torch.dtype) -> ExportedProgram:
    c = parts.config
    body = Body(parts, lora_dtype).eval()
    rows = Dim("rows", min=1, max=MAX_ROWS)
    rank = Dim("rank", min=1, max=MAX_RANK)
    n_keys = {
        kind: Dim(name, min=1, max=c.context_length)
        for kind, name in ((False, "local_keys"), (True, "global_keys"))
    }
    n, example = 3, {False: 5, True: 7}
    kv, adapters = [], []
    for i in range(c.n_layers):
        shape = (1, example[c.is_global(i)], c.n_kv_heads, c.head_dim)
        kv.append(tuple(torch.zeros(shape, dtype=kv_dtype) for _ in range(2)))
        adapters.append(empty_adapters(c, i, lora_dtype, rank=2))
    arguments = (
        torch.randn(n, c.hidden_size),
        torch.arange(float(n))[:, None, None],
        torch.zeros(n, example[False]),
        torch.zeros(n, example[True]),
        tuple(kv),
        tuple(adapters),
    )
    dynamic = (
        {0: rows},
        {0: rows},
        {0: rows, 1: n_keys[False]},
        {0: rows, 1: n_keys[True]},
        tuple(({1: n_keys[c.is_global(i)]},) * 2 for i in range(c.n_layers)),
        tuple((({0: rank}, {1: rank}, {0: rank}),) * len(LINEARS) for _ in range(c.n_layers)),
    )
    with torch.no_grad():
        return export(body, arguments, dynamic_shapes=dynamic, strict=False)


def _export_head(parts: Parts) -> ExportedProgram:
    head = Head(parts).eval()
    rows = Dim("rows", min=1, max=MAX_HEAD_ROWS)
    with torch.no_grad():
        return export(
            head,
            (torch.randn(3, parts.config.hidden_size),),
            dynamic_shapes=({0: rows},),
            strict=False,
        )


def empty_adapters(
    config: ModelConfig, layer: int, dtype: torch.dtype, *, rank: int
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]:
    """Return adapters of one layer that change nothing."""
    shapes = expected_shapes(config)
    made = []
    for name in LINEARS:
        n_out, n_in = shapes[f"layers.{layer}.{name}.weight"]  # type: ignore[misc]  # a matrix
        made.append(
            (
                torch.zeros(rank, n_in, dtype=dtype),
                torch.zeros(n_out, rank, dtype=dtype),
                torch.zeros(rank, dtype=dtype),
            )
        )
    return tuple(made)


def _write_through(program: ExportedProgram) -> None:
    """Let attention write into the caches it is given instead of into copies that are written back at the end."""
    graph, signature = program.graph_module.graph, program.graph_signature
    outputs = graph.output_node()
    kept = [
        (node, spec)
        for node, spec in zip(outputs.args[0], signature.output_specs, strict=True)
        if spec.kind != OutputKind.USER_INPUT_MUTATION
    ]
    outputs.args = (tuple(node for node, _ in kept),)
    signature.output_specs[:] = [spec for _, spec in kept]
    graph.eliminate_dead_code()
    program.graph_module.recompile()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings about themselves from whoever exports."""
    talkers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)


def write_program(program: Any, path: Path) -> None:
    """Write the program to `path`."""
    with path.open("wb") as file:
        program.write_to_file(file)
