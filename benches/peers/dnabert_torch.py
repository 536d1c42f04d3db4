"""DNABERT-S in plain, efficient PyTorch: the strongest fair peer on the CPU, in float32; in float64, a reference.

The published modelling code runs a padded attention out of matmul, bias and softmax (its Triton path needs
a GPU and drops to fp16). This computes the same with `F.scaled_dot_product_attention`, the ALiBi bias made
once per batch shape, which is faster.
"""

import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


def alibi_slopes(heads):
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / lower) for i in range(lower)]
    higher = [2 ** (-8 * (i + 1) / (2 * lower)) for i in range(2 * lower)]
    return slopes + higher[0::2][: heads - lower]


class Dnabert:
    def __init__(self, folder, device="cpu", dtype=torch.float32):
        folder = pathlib.Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.device, self.dtype = device, dtype
        self.weights = {name.removeprefix("bert."): tensor.to(dtype)
                        for name, tensor in load_file(folder / "model.safetensors", str(device)).items()}
        slopes = alibi_slopes(self.config["num_attention_heads"])
        self.slopes = torch.tensor(slopes, dtype=torch.float64, device=device)
        self.biases = {}

    def bias(self, length):
        """The ALiBi bias [1, heads, length, length], made once per shape."""
        if length not in self.biases:
            if len(self.biases) >= 64:
                self.biases.clear()
            position = torch.arange(length, device=self.device)
            distance = (position[:, None] - position[None, :]).abs().double()
            self.biases[length] = (-self.slopes[:, None, None] * distance)[None].to(self.dtype)
        return self.biases[length]

    def __call__(self, ids, lengths):
        """The last layer's states [batch, longest, d] of padded token ids [batch, longest]."""
        w, config = self.weights, self.config
        heads, d, eps = config["num_attention_heads"], config["hidden_size"], config["layer_norm_eps"]
        batch, longest = ids.shape
        norm = lambda x, name: F.layer_norm(x, (d,), w[name + ".weight"], w[name + ".bias"], eps)
        linear = lambda x, name: F.linear(x, w[name + ".weight"], w.get(name + ".bias"))

        mask = self.bias(longest)
        if min(lengths) < longest:
            padding = (torch.arange(longest)[None, :] >= torch.tensor(lengths)[:, None]).to(self.device)
            mask = mask.masked_fill(padding[:, None, None, :], float("-inf"))
        else:
            mask = mask.expand(batch, -1, -1, -1)

        x = F.embedding(ids, w["embeddings.word_embeddings.weight"]) + w["embeddings.token_type_embeddings.weight"][0]
        x = norm(x, "embeddings.LayerNorm")
        for i in range(config["num_hidden_layers"]):
            name = f"encoder.layer.{i}."
            qkv = linear(x, name + "attention.self.Wqkv").view(batch, longest, 3, heads, d // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            attended = attended.transpose(1, 2).reshape(batch, longest, d)
            x = norm(linear(attended, name + "attention.output.dense") + x, name + "attention.output.LayerNorm")
            gate, value = linear(x, name + "mlp.gated_layers").chunk(2, -1)
            x = norm(linear(F.gelu(gate) * value, name + "mlp.wo") + x, name + "mlp.layernorm")
        return x
