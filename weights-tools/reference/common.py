"""What the reference scripts share: random models, errors, sequences, and the golden file's layout."""

import importlib.metadata
import json
import os
import pathlib
import random
import subprocess

import numpy as np
import torch
from blake3 import blake3
from safetensors.numpy import save_file
from safetensors.torch import load_file

FORMAT = "seqstream-golden-1"
# Added to every seed, of weights and texts: GOLDEN_SEED=7 makes files that nothing was tuned on.
FRESH = 1000 * int(os.environ.get("GOLDEN_SEED", "0"))


def make_model(tool, spec, folder):
    """Makes the random model `spec` in `folder` with `weights-tools random`; the BLAKE3 hash of its weights file.

    The weights are never committed: whoever reads a golden file makes them again from the seed, and the
    hash stored beside the states says whether they are the same ones.
    """
    arguments = [str(tool), "random", "--out", str(folder)]
    for name, value in spec.items():
        arguments += [f"--{name}", str(value)]
    subprocess.run(arguments, check=True)
    return blake3((pathlib.Path(folder) / "model.safetensors").read_bytes()).hexdigest()


def load_weights(folder, prefix):
    """The tensors of a Hugging Face folder as stored, by name, `prefix` taken off; and its config."""
    folder = pathlib.Path(folder)
    weights = load_file(folder / "model.safetensors")
    weights = {name.removeprefix(prefix): tensor.float() for name, tensor in weights.items()}
    return weights, json.loads((folder / "config.json").read_text())


def relative_error(out, reference):
    """norm(out - reference) / norm(reference), in float64."""
    out, reference = np.asarray(out, np.float64), np.asarray(reference, np.float64)
    return float(np.linalg.norm(out - reference) / np.linalg.norm(reference))


def random_text(alphabet, length, seed):
    """Letters drawn from `alphabet`. Python's Mersenne Twister gives the same ones in every version."""
    generator = random.Random(seed + FRESH)
    return "".join(alphabet[int(generator.random() * len(alphabet))] for _ in range(length))


def chosen_layers(layers):
    """The layers whose means are stored: the embedding, the first, the middle one, the last."""
    return sorted({0, 1, layers // 2, layers})


def chosen_rows(tokens, most):
    """The tokens whose states are stored: at most `most`, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, tokens - 1, min(tokens, most)).round().astype(np.uint32))


class Golden:
    """One golden file: float64 states of a handful of sequences, and how far a float32 run is from them."""

    def __init__(self, spec, weights_blake3, layers, pooled, float32_run):
        self.spec, self.weights_blake3, self.layers = spec, weights_blake3, layers
        self.pooled, self.float32_run = pooled, float32_run
        self.sequences, self.tensors = [], {}

    def add(self, name, text, ids, reference, float32, means, means32):
        """Adds a sequence.

        `reference` and `float32` are the last layer's states [tokens, d]; `means` and `means32` the pooled
        means by layer [layers, d]. The float32 error is that over the stored rows alone, so that an engine
        compared on these rows is held against the same quantity.
        """
        most = 12 if reference.shape[1] <= 400 else 6
        rows = chosen_rows(len(ids), most)
        key = str(len(self.sequences))
        self.sequences.append({"name": name, "text": text, "tokens": len(ids)})
        self.tensors[key + ".ids"] = np.asarray(ids, np.uint32)
        self.tensors[key + ".rows"] = rows
        self.tensors[key + ".states"] = np.ascontiguousarray(reference[rows], np.float64)
        self.tensors[key + ".means"] = np.ascontiguousarray(means, np.float64)
        states_error = relative_error(float32[rows], reference[rows])
        means_error = [relative_error(a, b) for a, b in zip(means32, means)]
        self.tensors[key + ".float32_error"] = np.array([states_error, *means_error], np.float64)
        everywhere = relative_error(float32, reference)
        print(f"  {name:16} {len(ids):5} tokens  float32 error: states {states_error:.2e} (all rows {everywhere:.2e})"
              f"  means " + " ".join(f"{e:.1e}" for e in means_error))

    def write(self, path, agreement):
        packages = ("torch", "transformers", "fair-esm", "tokenizers", "numpy")
        # One entry: several would be written in another order each time.
        description = {
            "format": FORMAT,
            "model": self.spec,
            "weights_blake3": self.weights_blake3,
            "layers": self.layers,
            "pooled": self.pooled,
            "float32_run": self.float32_run,
            "agreement": agreement,
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "sequences": self.sequences,
        }
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, path, {"golden": json.dumps(description)})
        print(f"  {path}: {pathlib.Path(path).stat().st_size:,} bytes")


def settle():
    """Gradients off, one thread: the float32 run does not depend on how many cores there are."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
