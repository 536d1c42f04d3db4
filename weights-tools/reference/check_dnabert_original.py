"""Holds the plain DNABERT reference against the original modelling code, once, on random weights.

    python check_dnabert_original.py --code DIR

DIR holds `bert_layers.py` (MAGICS-LAB/DNABERT_S, evaluate/model_codes/) and `bert_padding.py` (the same
repository, train/pretrain/DNABERT2_MIX/); neither is part of this repository. The original runs its plain
PyTorch path, never its fp16 Triton one.
"""

import argparse
import importlib
import pathlib
import sys
import types
import warnings

import torch
from transformers import BertConfig

from common import relative_error, settle
from dnabert_reference import states

CASES = [(12, 768, 512, 3), (12, 192, 256, 4), (6, 96, 128, 3), (8, 256, 512, 3), (5, 80, 96, 2), (1, 32, 64, 2)]
LENGTHS = [3, 17, 130, 700]


def original(folder):
    """The original package: `bert_layers` imports its neighbours relatively."""
    package = types.ModuleType("dnabert_original")
    package.__path__ = [str(folder)]
    sys.modules["dnabert_original"] = package
    sys.modules["dnabert_original.flash_attn_triton"] = None  # an ImportError, so the plain path
    return importlib.import_module("dnabert_original.bert_layers")


def randomise(model, generator):
    """Non-trivial weights, biases, gains; a few outliers."""
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        if name.lower().endswith("layernorm.weight"):
            values = 1 + 0.3 * values
        elif name.endswith("bias") or "embeddings" in name:
            values = 0.5 * values
        else:
            values = 1.5 * values / parameter.shape[1] ** 0.5
        outlier = torch.rand(parameter.shape, generator=generator) < 1e-3
        parameter.copy_(torch.where(outlier, 6 * values, values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--code", required=True, type=pathlib.Path, help="the folder with the original code")
    options = parser.parse_args()
    settle()
    warnings.simplefilter("ignore")
    code = original(options.code.resolve())
    generator = torch.Generator().manual_seed(7)
    worst = {torch.float64: 0.0, torch.float32: 0.0}
    for heads, d, inner, layers in CASES:
        config = BertConfig(vocab_size=100, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads,
                            intermediate_size=inner, layer_norm_eps=1e-12, pad_token_id=0, type_vocab_size=2,
                            alibi_starting_size=512, attention_probs_dropout_prob=0.0)
        for dtype in worst:
            # The original builds its ALiBi slopes in the default dtype.
            torch.set_default_dtype(dtype)
            model = code.BertModel(config, add_pooling_layer=False).eval()
            torch.set_default_dtype(torch.float32)
            state = generator.get_state()
            randomise(model, generator)
            generator.set_state(state)
            weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
            model = model.to(dtype)
            for tokens in LENGTHS:
                ids = torch.randint(100, (1, tokens), generator=torch.Generator().manual_seed(tokens))
                torch.set_default_dtype(dtype)  # the ALiBi table grows inside the forward pass
                theirs, _ = model(ids, output_all_encoded_layers=True)
                torch.set_default_dtype(torch.float32)
                ours = states(weights, config.to_dict(), ids[0].tolist(), torch.float64)
                assert all(layer.dtype == dtype for layer in theirs)
                error = max(relative_error(a, b) for a, b in zip(theirs, ours[1:]))
                worst[dtype] = max(worst[dtype], error)
        print(f"heads {heads:2} d {d:3}: worst layer so far: float64 {worst[torch.float64]:.1e}, "
              f"the original in float32 {worst[torch.float32]:.1e}")
        generator.manual_seed(7 + heads + d)
    if worst[torch.float64] > 1e-13 or worst[torch.float32] > 1e-4:
        raise SystemExit("the plain reference and the original code disagree")
    print(f"agreed: {worst[torch.float64]:.1e} in float64, {worst[torch.float32]:.1e} for the original in float32")


if __name__ == "__main__":
    main()
