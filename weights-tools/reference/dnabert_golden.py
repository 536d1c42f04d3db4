"""Golden files for DNABERT-S: float64 states from the plain reference, for 12 heads and for other counts.

    python dnabert_golden.py --weights-tools target/release/weights-tools --out tests/golden/models

The float32 bar is the same plain computation in torch float32, each sequence alone.
"""

import argparse
import json
import pathlib
import tempfile

import torch
from tokenizers import Tokenizer

from common import FRESH, Golden, chosen_layers, load_weights, make_model, random_text, settle
from dnabert_reference import states

MODELS = {
    "dnabert-heads12": dict(kind="dnabert", layers=2, hidden=768, heads=12, intermediate=512, seed=21),
    "dnabert-heads6": dict(kind="dnabert", layers=4, hidden=96, heads=6, intermediate=384, seed=22),
    "dnabert-heads8": dict(kind="dnabert", layers=3, hidden=256, heads=8, intermediate=512, seed=23),
}
SEQUENCES = {
    "one": "A",
    "nine": "ACGTTGCAA",
    "two-hundred": random_text("ACGT", 200, 4),
    "five-hundred": random_text("ACGT", 500, 5),
    "dirty": "ACGTNNACGRYTTAacgtACG-TTA ACCGTNA",
    "repeat": "ATATATATATATATATATATATATATATATATATATATATAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "two-thousand": random_text("ACGT", 2000, 6),
}


def tokenizer_of(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # A published copy carries both; neither belongs to the model.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights-tools", required=True, type=pathlib.Path, help="the program weights-tools")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="where the golden files go")
    parser.add_argument("--only", help="only this model")
    options = parser.parse_args()
    settle()
    with tempfile.TemporaryDirectory() as scratch:
        for name, spec in MODELS.items():
            spec = {**spec, "seed": spec["seed"] + FRESH}
            if options.only not in (None, name):
                continue
            print(name, json.dumps(spec))
            folder = pathlib.Path(scratch) / name
            weights_blake3 = make_model(options.weights_tools, spec, folder)
            weights, config = load_weights(folder, "bert.")
            tokenizer = tokenizer_of(folder)
            layers = chosen_layers(spec["layers"])
            golden = Golden(spec, weights_blake3, layers, "mean over all tokens, [CLS] and [SEP] included",
                            "the plain reference in torch float32, each sequence alone")
            for label, text in SEQUENCES.items():
                ids = tokenizer.encode(text).ids
                exact = states(weights, config, ids, torch.float64)
                near = states(weights, config, ids, torch.float32)
                golden.add(label, text, ids, exact[-1].numpy(), near[-1].numpy(),
                           exact.mean(1)[layers].numpy(), near.mean(1)[layers].numpy())
            golden.write(options.out / f"{name}.safetensors",
                         "the original modelling code in float64: see check_dnabert_original.py")


if __name__ == "__main__":
    main()
