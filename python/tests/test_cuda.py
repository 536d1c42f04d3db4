"""The GPU path, on the simulated driver of the project: `cargo test --workspace` builds it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import program, proteins

import seqstream

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
LIBRARIES = [TARGET / "debug" / folder / "libseqstream_cuda_sim.so" for folder in ("deps", ".")]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The environment of a process with two simulated devices."""
    library = next((path for path in LIBRARIES if path.is_file()), None)
    if library is None:
        pytest.skip("the simulated driver is not built: cargo build -p seqstream-cuda-sim")
    if json.loads(program("doctor", "--json").stdout)["cuda_kernels"]["nvcc"] is None:
        pytest.skip("this wheel was built without nvcc, so it has no kernels")
    return {
        **os.environ,
        "SEQSTREAM_LIBCUDA": str(library),
        "SEQSTREAM_LIBCUBLASLT": str(library),
        "SEQSTREAM_SIM_DEVICES": "2",
        "SEQSTREAM_CACHE": str(tmp_path_factory.mktemp("cache")),
    }


def python(code: str, environment: dict[str, str], *args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EMBED = """
import json, sys, numpy as np, seqstream
sequences = json.load(open(sys.argv[2]))
model = seqstream.Embedder(sys.argv[1], device="cuda", dtype="f32", trace=True)
rows = model.embed(sequences)
status = model.streams.status()
assert {s["device"] for s in status} == {0, 1} and {s["kind"] for s in status} == {"load", "compute", "store"}, status
assert any(e["category"] == "kernel" for e in model.streams.trace()["events"]), "the trace has the work of the device"
# More than the model was loaded for: it is loaded anew.
layers = model.embed(sequences, layers="all", pool=["mean", "max"])
states = model.embed(sequences[:3], per_token=True, layers=[1])
assert (np.ascontiguousarray(layers[4][:, 0]) == rows).all()
model.embed_fasta(sys.argv[3], sys.argv[4])
assert (seqstream.open(sys.argv[4]).numpy() == rows).all(), "the program's job has the same bits"
assert (model.embed(sequences) == rows).all()
np.savez(sys.argv[5], rows=rows, states=states[1][0])
"""


def test_a_cuda_model_agrees_with_the_cpu(simulated, model, tiny, tmp_path):
    sequences = proteins(12)
    (tmp_path / "in.json").write_text(json.dumps(sequences))
    (tmp_path / "in.fa").write_text("".join(f">p{i}\n{text}\n" for i, text in enumerate(sequences)))
    files = [tmp_path / name for name in ("in.json", "in.fa", "out", "found.npz")]
    python(EMBED, simulated, tiny, *files)
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_allclose(found["rows"], model.embed(sequences), rtol=1e-4, atol=1e-4)
    states = model.embed(sequences[0], per_token=True, layers=1)
    np.testing.assert_allclose(found["states"], states, rtol=1e-4, atol=1e-4)


FORK = """
import os, sys, seqstream
model = seqstream.Embedder(sys.argv[1], device="cuda:0")
if os.fork() == 0:
    for attempt in (lambda: model.embed("MKT"), lambda: seqstream.Embedder(sys.argv[1], device="cuda:0")):
        try:
            attempt()
        except seqstream.DeviceError as error:
            print(error.exit_code, "fork" in str(error), "spawn" in error.hint, flush=True)
    os._exit(0)
os.wait()
print(model.embed("MKT").shape[0] == model.width)
"""


def test_after_a_fork_cuda_is_a_clear_error(simulated, tiny):
    assert python(FORK, simulated, tiny) == "7 True True\n7 True True\nTrue\n"


FAULT = """
import sys, seqstream
model = seqstream.Embedder(sys.argv[1], device="cuda:0")
try:
    while True:
        model.embed(["MKTAYIAK"] * 50)
except seqstream.DeviceError as error:
    print(error.exit_code)
"""


def test_a_device_that_fails_is_a_device_error(simulated, tiny):
    faulty = {**simulated, "SEQSTREAM_SIM_FAULT": "cuLaunchKernel#300:719:sticky"}
    assert python(FAULT, faulty, tiny) == "8\n"


def test_folders_of_nvidia_wheels_are_handed_over(tmp_path, monkeypatch):
    from seqstream._cublaslt import hand_over_folders

    (tmp_path / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path / "nvidia/cu13/lib") in hand_over_folders()
    assert seqstream.__version__
