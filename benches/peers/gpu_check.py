"""Holds `seqstream embed --device cuda` against PyTorch in float64 on the same card, whole true-size models.

    python gpu_check.py --seqstream seqstream --model /tmp/models/650M --out check.json

A few dozen sequences of awkward lengths are embedded in each dtype by seqstream, and one by one by Hugging Face's EsmModel
(sdpa, TF32 off; for DNABERT the plain `dnabert_torch.py`) in float64, float32, float16 and bfloat16. Printed are norm(x - f64) /
norm(f64) of a sequence's mean and of its states, the worst and the median sequence. Exit code 1 where seqstream is beyond
its bounds; without --seqstream, only PyTorch's own errors are printed.

The bounds are those of the golden files, or what this model makes of a rounding, whichever is more. That is measured: the
same model in float64, exactly, but for its matrices, which are rounded to the dtype as they have to be ("rounded matrices"
in the table). A layer rounds four matrices, and in seqstream up to eight times activations, each to the same 2^-11 or 2^-8
and each amplified by the rest of the model as a matrix's is; independent errors add as their squares, so all come to at
most sqrt((4 + 8) / 4) of the matrices' alone. Whatever computes in the dtype has at least about 1 of it.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file

import inputs
from dnabert_torch import Dnabert
from gpu import tokenized
from gpu_peers import DTYPES
from gpu_weights import exact_floats, hugging_face, load_config, rounded

BOUNDS = {"f32": 1e-5, "f16": 2e-3, "bf16": 1.5e-2}
AMPLIFIED = 3**0.5  # of the error of rounded matrices, above
ROUNDED = "float64, rounded matrices"
F32_RATIO = 1.5  # of PyTorch's own worst error in float32
# Around the sizes of tiles, and of blocks of tiles, in tokens; with the two specials, residues are two fewer.
TOKENS = [3, 4, 5, 7, 9, 10, 15, 16, 17, 18, 31, 32, 33, 47, 63, 64, 65, 66, 97, 127, 128, 129, 130, 191, 193, 255, 256,
          257, 300, 352, 383, 385, 511, 512, 513, 767, 1023, 1024, 1025, 1500]


def awkward(dna, seed=5):
    """Sequences of about those many tokens, and some of rare letters. DNA: 5 bases a token."""
    generator = random.Random(seed)
    letters = "ACGT" if dna else "LAGVSERTIDPKQNFYMHWC"
    draw = lambda alphabet, length: "".join(generator.choice(alphabet) for _ in range(length))
    records = [(f"length_{tokens}", draw(letters, 5 * (tokens - 2) if dna else tokens - 2)) for tokens in TOKENS]
    records.append(("rare", draw("ACGTN" if dna else "MBKUZLOXWG", 77)))
    records.append(("same", ("A" if dna else "L") * 200))
    generator.shuffle(records)
    return records


@torch.inference_mode()
def reference(folder, dna, encoded, device, dtype, matrices=None):
    """The states of each sequence, alone: [tokens the mean is over, d], float64 on the host. `matrices`: a dtype that the
    layers' matrices are rounded to before."""
    if dna:
        model = Dnabert(folder, device, dtype)
        model.weights = {name: rounded(name, tensor, matrices) for name, tensor in model.weights.items()}
    else:
        model = hugging_face(folder, device, dtype, matrices=matrices)
    states = []
    with exact_floats(dtype):
        for ids in encoded:
            batch = torch.tensor([ids], device=device)
            out = model(batch, [len(ids)]) if dna else model(input_ids=batch).last_hidden_state
            assert out.dtype == dtype
            # The mean is taken in the dtype's own run, but in float64: what is compared is the model.
            states.append((out[0] if dna else out[0, 1:-1]).double().cpu().numpy())
    return states


def seqstream(program, folder, fasta, device, dtype, scratch):
    """seqstream's rows and states, by name."""
    out = scratch / f"out-{dtype}"
    command = [program, "embed", fasta, "--model", folder, "--out", out, "--per-token", "--device", device, "--dtype", dtype]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}")
    rows, states = {}, {}
    for shard in sorted(out.glob("shard-*")):
        names = (shard / "ids.txt").read_text().split("\n")[:-1]
        rows |= zip(names, np.load(next(shard.glob("layer_*.npy"))).astype(np.float64), strict=True)
        file = load_file(next(shard.glob("layer_*.safetensors")))
        parts = np.split(file["states"].astype(np.float64), file["offsets"][1:-1])
        states |= zip(names, parts, strict=True)
    return rows, states


def errors(found, exact):
    """norm(found - exact) / norm(exact), a sequence each; NaN counts as infinite."""
    each = [np.linalg.norm(f - e) / np.linalg.norm(e) if f.shape == e.shape else np.inf for f, e in zip(found, exact, strict=True)]
    return np.nan_to_num(np.array(each), nan=np.inf)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = pathlib.Path
    parser.add_argument("--model", type=path, required=True)
    parser.add_argument("--seqstream", type=path, help="the program")
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=list(BOUNDS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--longest", type=int, default=1 << 20, help="leave out longer sequences, in letters")
    parser.add_argument("--out", type=path, help="the table, as JSON")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    dna = load_config(options.model)["model_type"] == "bert"
    records = [r for r in awkward(dna) if len(r[1]) <= options.longest]
    encoded = tokenized(records, options.model, dna)
    peer = "plain PyTorch" if dna else "Hugging Face"

    exact = reference(options.model, dna, encoded, options.device, torch.float64)
    exact_means = [states.mean(0) for states in exact]
    found, failures = [], []

    def add(who, dtype, means, states):
        for what, each in ("mean", errors(means, exact_means)), ("states", errors(states, exact)):
            worst = int(each.argmax())
            found.append({"who": who, "dtype": dtype, "of": what, "max": float(each.max()), "median": float(np.median(each)),
                          "worst": records[worst][0]})

    for dtype in options.dtypes:
        states = reference(options.model, dna, encoded, options.device, DTYPES[dtype])
        add(peer, dtype, [s.mean(0) for s in states], states)
        if dtype != "f32":
            states = reference(options.model, dna, encoded, options.device, torch.float64, DTYPES[dtype])
            add(ROUNDED, dtype, [s.mean(0) for s in states], states)
    if options.device == "cuda":
        torch.cuda.empty_cache()  # seqstream needs the memory
    with tempfile.TemporaryDirectory() as scratch:
        scratch = path(scratch)
        inputs.write_fasta(scratch / "awkward.fasta", records)
        for dtype in options.dtypes if options.seqstream else []:
            try:
                rows, states = seqstream(options.seqstream, options.model, scratch / "awkward.fasta", options.device, dtype, scratch)
            except (RuntimeError, OSError, ValueError) as error:
                failures.append(f"seqstream {dtype}: {error}")
                continue
            add("seqstream", dtype, [rows[name] for name, _ in records], [states[name] for name, _ in records])

    of = lambda who: {(f["dtype"], f["of"]): f["max"] for f in found if f["who"] == who}
    theirs, amplified = of(peer), of(ROUNDED)
    print(f"{options.model.name}: {len(records)} sequences of {min(map(len, encoded))} to {max(map(len, encoded))} tokens, "
          f"against float64\n\n| who | dtype | of | max | median | worst | max / {peer}'s |\n|---|---|---|---|---|---|---|")
    for f in found:
        case = (f["dtype"], f["of"])
        f["ratio"] = f["max"] / theirs[case]
        print(f"| {f['who']} | {f['dtype']} | {f['of']} | {f['max']:.2e} | {f['median']:.2e} | {f['worst']} | {f['ratio']:.2f} |")
        if f["who"] == "seqstream":
            f["bound"] = max(BOUNDS[f["dtype"]], AMPLIFIED * amplified.get(case, 0.0))
            if not f["max"] <= f["bound"]:
                failures.append(f"{f['dtype']} {f['of']}: {f['max']:.2e} is over {f['bound']:.1e}")
            elif not f["max"] <= BOUNDS[f["dtype"]]:
                print(f"NOTE: {f['dtype']} {f['of']}: {f['max']:.2e} is over the golden files' {BOUNDS[f['dtype']]:.1e}; with rounded "
                      f"matrices alone this model is off by {amplified[case]:.2e} in float64, and is held to {f['bound']:.1e}")
            if f["dtype"] == "f32" and not f["ratio"] <= F32_RATIO:
                failures.append(f"f32 {f['of']}: {f['ratio']:.2f} times {peer}'s own error, over {F32_RATIO}")
    for failure in failures:
        print(f"FAILED: {failure}")
    if options.out:
        options.out.write_text(json.dumps({"model": options.model.name, "errors": found, "failures": failures}, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
