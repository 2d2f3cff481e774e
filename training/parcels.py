"""Training data and weights in files of a bounded size, for a machine elsewhere that trains.

    python -m training.parcels pack --shards DIR --out DIR --part-mb 25    # here: shards-00.npz.xz, …
    python -m training.parcels unpack DIR/shards-*.npz.xz --out SHARDS     # there, before training.base_model
    python -m training.parcels split --checkpoint DIR --out DIR --part-mb 15   # there: weights in bfloat16
    python -m training.parcels join DIR --out CHECKPOINT                   # here, before training.export

Every part of the shards holds both languages in their proportion, so any of them will do to train on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pushkin_runtime.control_tokens import LANGUAGES
from training.shards import Tokens

_WEIGHTS = "model.safetensors"
_ABOUT = "parts.json"


def pack_shards(shards: Path, out: Path, part_bytes: int) -> list[Path]:
    """Compress the tables of `shards` into parts of about `part_bytes`; the paths, in order."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        language: np.load(shards / f"{language}.npy", mmap_mode="r")
        for language in LANGUAGES
        if (shards / f"{language}.npy").is_file()
    }
    if not tables:
        raise FileNotFoundError(f"no shards in {shards}: run python -m training.shards --out DIR")
    sample = _compressed({name: table[: len(table) // 64] for name, table in tables.items()})
    n_parts = max(1, -(-64 * len(sample) // part_bytes))
    paths: list[Path] = []
    for number in range(n_parts):
        rows = {name: np.asarray(table[number::n_parts]) for name, table in tables.items()}
        path = out / f"shards-{number:02d}.npz.xz"
        path.write_bytes(_compressed(rows))
        paths.append(path)
    return paths


def _compressed(tables: dict[str, Tokens]) -> bytes:
    """An .npz through LZMA, its literals by position in a token: a byte a token, order-6 PPMd takes 0.91."""
    buffer = io.BytesIO()
    np.savez(buffer, **tables)  # type: ignore[arg-type]  # NumPy's stub takes one for allow_pickle
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lp": 1, "pb": 1}]
    return lzma.compress(buffer.getvalue(), filters=filters)


def unpack_shards(parts: Sequence[Path], out: Path) -> dict[str, int]:
    """Write the tables and shards.json of the parts given; rows by language."""
    tables: dict[str, list[Tokens]] = {}
    for part in parts:
        with np.load(io.BytesIO(lzma.decompress(part.read_bytes())), allow_pickle=False) as found:
            for name in found.files:
                tables.setdefault(name, []).append(found[name])
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    for name, blocks in tables.items():
        table = np.concatenate(blocks)
        np.save(out / f"{name}.npy", table)
        counts[name] = len(table)
    about = {"row_length": table.shape[1] - 1, "rows": counts, "parts": [p.name for p in parts]}
    (out / "shards.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return counts


def split_checkpoint(checkpoint: Path, out: Path, part_bytes: int) -> list[Path]:
    """Write the weights in bfloat16, cut into parts, with what else an export needs."""
    out.mkdir(parents=True, exist_ok=True)
    weights = load_file(checkpoint / _WEIGHTS)
    whole = out / _WEIGHTS
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}, whole)
    data = whole.read_bytes()
    whole.unlink()
    paths = [
        out / f"{_WEIGHTS}.{number:02d}" for number in range(max(1, -(-len(data) // part_bytes)))
    ]
    for number, path in enumerate(paths):
        path.write_bytes(data[number * part_bytes : (number + 1) * part_bytes])
    beside = {
        name: (checkpoint / name).read_text(encoding="utf-8")
        for name in ("config.json", "state.json")
    }
    about = {"sha256": hashlib.sha256(data).hexdigest(), "n_parts": len(paths), "files": beside}
    (out / _ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
    return [*paths, out / _ABOUT]


def join_checkpoint(parts: Path, out: Path) -> None:
    """Make a checkpoint folder, weights in float32 again, of what `split_checkpoint` wrote.

    Raises ValueError when a part is missing or damaged.
    """
    about = json.loads((parts / _ABOUT).read_text(encoding="utf-8"))
    names = [f"{_WEIGHTS}.{number:02d}" for number in range(about["n_parts"])]
    missing = [name for name in names if not (parts / name).is_file()]
    if missing:
        raise ValueError(f"{parts}: parts are missing: {', '.join(missing)}")
    data = b"".join((parts / name).read_bytes() for name in names)
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise ValueError(f"{parts}: the parts are damaged or of another checkpoint: copy them anew")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    (temporary / _WEIGHTS).write_bytes(data)
    weights = {name: tensor.float() for name, tensor in load_file(temporary / _WEIGHTS).items()}
    save_file(weights, temporary / _WEIGHTS, metadata={"format": "pt"})
    for name, text in about["files"].items():
        if name not in ("config.json", "state.json"):
            raise ValueError(f"{parts}/{_ABOUT}: {name!r} is no file of a checkpoint")
        (temporary / name).write_text(text, encoding="utf-8")
    temporary.rename(out)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.parcels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack")
    pack.add_argument("--shards", type=Path, required=True)
    unpack = commands.add_parser("unpack")
    unpack.add_argument("parts", type=Path, nargs="+")
    split = commands.add_parser("split")
    split.add_argument("--checkpoint", type=Path, required=True)
    join = commands.add_parser("join")
    join.add_argument("parts", type=Path)
    for command in (pack, unpack, split, join):
        command.add_argument("--out", type=Path, required=True)
    for command in (pack, split):
        command.add_argument("--part-mb", type=float, required=True, help="of 1,000,000 bytes")
    args = parser.parse_args(argv)
    if args.command == "pack":
        paths = pack_shards(args.shards, args.out, int(args.part_mb * 1e6))
        print(*(f"{path} {path.stat().st_size:,}" for path in paths), sep="\n")
    elif args.command == "unpack":
        print(unpack_shards(args.parts, args.out))
    elif args.command == "split":
        print(*split_checkpoint(args.checkpoint, args.out, int(args.part_mb * 1e6)), sep="\n")
    else:
        join_checkpoint(args.parts, args.out)


if __name__ == "__main__":
    main()
