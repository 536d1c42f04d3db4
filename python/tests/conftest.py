"""Small models and made-up sequences for the tests."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sysconfig

import numpy as np
import pytest

import seqstream

TINY = pathlib.Path(__file__).resolve().parents[2] / "examples" / "tiny-esm2"


def program(*args: object, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command `seqstream` that was installed with the package."""
    command = os.path.join(sysconfig.get_path("scripts"), "seqstream")
    done = subprocess.run([command, *map(str, args)], capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


def proteins(n: int, seed: int = 1, most: int = 60) -> list[str]:
    """Make proteins of 1 to `most` residues."""
    rng = random.Random(seed)
    return ["".join(rng.choices("LAGVSERTIDPKQNFYMHWC", k=rng.randint(1, most))) for _ in range(n)]


def write_fasta(path: pathlib.Path, sequences: list[str], names: list[str] | None = None) -> pathlib.Path:
    names = names or [f"p{i}" for i in range(len(sequences))]
    path.write_text("".join(f">{name}\n{text}\n" for name, text in zip(names, sequences)))
    return path


def rows_of(out: pathlib.Path, name: str) -> np.ndarray:
    """Read what the program wrote, without the code that is tested."""
    shards = json.loads((out / "manifest.json").read_text())["shards"]
    return np.concatenate([np.load(out / shard["name"] / name) for shard in shards])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(scope="session")
def tiny() -> pathlib.Path:
    return TINY


@pytest.fixture(scope="session")
def model(tiny: pathlib.Path) -> seqstream.Embedder:
    return seqstream.Embedder(tiny)


@pytest.fixture(scope="session")
def job(tiny: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], pathlib.Path]:
    """Sequences, and the output of the program for them: all layers, two poolings, states, several shards."""
    folder = tmp_path_factory.mktemp("job")
    sequences = proteins(70)
    fasta = write_fasta(folder / "in.fa", sequences)
    program(
        "embed", fasta, "--model", tiny, "--out", folder / "out", "--layers", "all", "--pool", "mean,max",
        "--per-token", "--shard-size", 32,
    )
    return sequences, folder / "out"
