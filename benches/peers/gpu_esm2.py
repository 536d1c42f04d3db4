"""ESM-2 on one page of PyTorch, as fast as a page gets: packed sequences, fused q, k and v, torch.compile.

The compiled unit is a layer, not the model: it compiles in seconds, once for all layers. A layer hands on the sum it has
not added yet (`pending`), so that the addition is fused into the next layer's LayerNorm, as in a whole compiled model.
"""

import torch
import torch.nn.functional as F

from gpu_packed import ATTENTIONS
from gpu_weights import load


class Esm2Page:
    ends = 1  # <cls> and <eos> are not part of the mean

    def __init__(self, folder, device, dtype):
        w, self.config = load(folder, device, "esm.")
        self.heads, self.eps = self.config["num_attention_heads"], self.config["layer_norm_eps"]
        self.head_dim, self.dtype = self.config["hidden_size"] // self.heads, dtype
        self.slopes = None
        pair = lambda name: (w[name + ".weight"].to(dtype), w[name + ".bias"].to(dtype))
        self.layers = []
        for i in range(self.config["num_hidden_layers"]):
            at = f"encoder.layer.{i}."
            parts = [pair(f"{at}attention.self.{part}") for part in ("query", "key", "value")]
            qkv = tuple(torch.cat(tensors) for tensors in zip(*parts))
            self.layers.append((pair(at + "attention.LayerNorm"), qkv, pair(at + "attention.output.dense"),
                                pair(at + "LayerNorm"), pair(at + "intermediate.dense"), pair(at + "output.dense")))
        self.embedding = w["embeddings.word_embeddings.weight"] * 0.88  # token dropout's scale without masks
        self.final = pair("encoder.emb_layer_norm_after")
        self.inv_freq = w["encoder.layer.0.attention.self.rotary_embeddings.inv_freq"].float()

    def build(self, attention, residual, mode):
        self.prepare, self.attend = ATTENTIONS[attention](self.slopes)
        self.residual, self.layer = residual, torch.compile(self.one_layer, mode=mode)

    def norm(self, x, weight, bias):
        return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), self.eps).to(self.dtype)

    def one_layer(self, x, pending, weights, cos, sin, *attended):
        norm1, qkv, out, norm2, fc1, fc2 = weights
        x = x + pending
        qkv = F.linear(self.norm(x, *norm1), *qkv).view(-1, 3, self.heads, self.head_dim)
        qk, v = qkv[:, :2].float(), qkv[:, 2]
        first, second = qk.chunk(2, -1)
        q, k = (qk * cos + torch.cat((-second, first), -1) * sin).to(self.dtype).unbind(1)
        x = x + F.linear(self.attend(q, k, v, *attended).flatten(1), *out)
        wide = F.gelu(F.linear(self.norm(x, *norm2), *fc1))
        return x, F.linear(wide, *fc2)

    def __call__(self, batch):
        """The mean of each sequence's residues [sequences, d]."""
        angles = (batch.positions[:, None] * self.inv_freq).repeat(1, 2)[:, None, None]
        cos, sin = angles.cos(), angles.sin()
        x = self.embedding[batch.ids].to(self.residual)
        pending = torch.zeros_like(x, dtype=self.dtype)
        for weights in self.layers:
            x, pending = self.layer(x, pending, weights, cos, sin, *batch.attended)
        states = self.norm(x + pending, *self.final).float()
        sums = states.new_zeros(len(batch.members) + 1, states.shape[1]).index_add_(0, batch.rows, states)
        return sums[:-1] / batch.rows.bincount(minlength=len(sums))[:-1, None]
