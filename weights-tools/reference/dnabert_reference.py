"""DNABERT-S and DNABERT-2 written plainly: the reference for the golden files, in whatever dtype it is given.

Nothing here comes from the original code; `check_dnabert_original.py` holds the two against each other.
"""

import math

import torch
from torch.nn.functional import layer_norm, linear


def alibi_slopes(heads):
    """One slope a head (Press et al. 2022). A count that is not a power of two takes those of the next lower
    power, then every second one of the next higher."""
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / lower) for i in range(lower)]
    higher = [2 ** (-8 * (i + 1) / (2 * lower)) for i in range(2 * lower)]
    return slopes + higher[0::2][: heads - lower]


def erf_gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def states(weights, config, ids, dtype):
    """The representations [layers + 1, tokens, d] of one sequence of token ids; 0 is the embedding."""
    heads, d = config["num_attention_heads"], config["hidden_size"]
    eps, inner = config["layer_norm_eps"], config["intermediate_size"]
    w = lambda name: weights[name].to(dtype)
    norm = lambda x, name: layer_norm(x, (d,), w(name + ".weight"), w(name + ".bias"), eps)

    x = w("embeddings.word_embeddings.weight")[torch.tensor(ids)] + w("embeddings.token_type_embeddings.weight")[0]
    x = norm(x, "embeddings.LayerNorm")
    found = [x]

    position = torch.arange(len(ids), dtype=dtype)
    distance = (position[:, None] - position[None, :]).abs()
    bias = -torch.tensor(alibi_slopes(heads), dtype=dtype)[:, None, None] * distance

    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}."
        qkv = linear(x, w(name + "attention.self.Wqkv.weight"), w(name + "attention.self.Wqkv.bias"))
        # [tokens, 3, heads, head_dim] -> three of [heads, tokens, head_dim]
        q, k, v = qkv.view(len(ids), 3, heads, d // heads).permute(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2) / math.sqrt(d // heads) + bias
        attended = (torch.softmax(scores, -1) @ v).transpose(0, 1).reshape(len(ids), d)
        dense = name + "attention.output.dense"
        x = norm(linear(attended, w(dense + ".weight"), w(dense + ".bias")) + x, name + "attention.output.LayerNorm")

        gated = linear(x, w(name + "mlp.gated_layers.weight"))
        h = erf_gelu(gated[:, :inner]) * gated[:, inner:]
        x = norm(linear(h, w(name + "mlp.wo.weight"), w(name + "mlp.wo.bias")) + x, name + "mlp.layernorm")
        found.append(x)
    return torch.stack(found)
