"""Reads the `.pt` files that this program writes with a real PyTorch, and writes the same values with it.

    pip install torch==2.15.0 numpy==2.4.6
    export SEQSTREAM_WRITE_VECTORS=tests/golden/virnucpro/vectors
    cargo test --test virnucpro golden_files_are_written_where_asked    # writes the files again, if they changed
    python tests/golden/virnucpro/check_vectors.py tests/golden/virnucpro/vectors

The files are loaded with weights_only=True. DIR/torch/ gets the files that torch.save makes of the same values, with which
the tests compare what they read.
"""

import sys
from pathlib import Path

import numpy as np
import torch

RESIDUES = [9, 4, 9, 100, 4, 30, 9]


def vectors(width):
    rows, columns = np.arange(len(RESIDUES))[:, None], np.arange(width)[None, :]
    numerator = ((31 * rows + 7 * columns + width) % 101).astype(np.float32)
    return torch.from_numpy(numerator / np.float32(3) - np.float32(9))


def same(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype == torch.float32 and a.shape == b.shape and torch.equal(a, b)
        assert a.is_contiguous() and not a.requires_grad
        assert a.untyped_storage().nbytes() == 4 * a.numel()
    elif isinstance(a, dict):
        assert type(b) is dict and list(a) == list(b), (a, b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list):
        assert type(b) is list and len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    else:
        assert type(a) is type(b) and a == b, (a, b)


def main():
    folder = Path(sys.argv[1])
    (folder / "torch").mkdir(exist_ok=True)
    ids = [f"c\u00e9_chunk_{n}F1" for n in range(1, len(RESIDUES) + 1)]
    dna, protein = vectors(3), vectors(5)
    # As fair-esm sorts: pairs of length and number.
    order = [number for _, number in sorted((length, number) for number, length in enumerate(RESIDUES))]
    wanted = {
        "x_nucleotide/output_1_DNABERT_S.pt": {
            "nucleotide": ids,
            "data": [{"label": name, "mean_representation": row.tolist()} for name, row in zip(ids, dna)],
        },
        "x_protein/output_1_ESM.pt": {
            "proteins": [ids[n] for n in order],
            "data": [protein[n].clone() for n in order],
        },
        "x_merged/output_1_merged.pt": {"ids": ids, "data": torch.cat([dna, protein], dim=1)},
    }
    for name, value in wanted.items():
        torch.save(value, folder / "torch" / Path(name).name)
        same(value, torch.load(folder / name, weights_only=True))
        same(value, torch.load(folder / name, weights_only=True, mmap=True))
        print("ok", name)


main()
