"""DNABERT-S on one page of PyTorch, as fast as a page gets: packed sequences, ALiBi in the attention, torch.compile.

See `gpu_esm2.py`; LayerNorm stands after the sums here, so that a layer ends with it.
"""

import torch
import torch.nn.functional as F

from dnabert_torch import alibi_slopes
from gpu_packed import ATTENTIONS
from gpu_weights import load


class DnabertPage:
    ends = 0  # [CLS] and [SEP] are part of the mean

    def __init__(self, folder, device, dtype):
        w, self.config = load(folder, device, "bert.")
        self.heads, self.eps = self.config["num_attention_heads"], self.config["layer_norm_eps"]
        self.head_dim, self.dtype = self.config["hidden_size"] // self.heads, dtype
        self.slopes = torch.tensor(alibi_slopes(self.heads), device=device)
        pair = lambda name: (w[name + ".weight"].to(dtype), w[name + ".bias"].to(dtype))
        self.layers = []
        for i in range(self.config["num_hidden_layers"]):
            at = f"encoder.layer.{i}."
            self.layers.append((pair(at + "attention.self.Wqkv"), pair(at + "attention.output.dense"),
                                pair(at + "attention.output.LayerNorm"), w[at + "mlp.gated_layers.weight"].to(dtype),
                                pair(at + "mlp.wo"), pair(at + "mlp.layernorm")))
        self.embedding = w["embeddings.word_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0]
        self.first = pair("embeddings.LayerNorm")

    def build(self, attention, residual, mode):
        self.prepare, self.attend = ATTENTIONS[attention](self.slopes)
        self.residual, self.layer = residual, torch.compile(self.one_layer, mode=mode)

    def norm(self, x, weight, bias):
        return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), self.eps).to(self.residual)

    def one_layer(self, x, weights, *attended):
        qkv, out, norm1, gated, wo, norm2 = weights
        qkv = F.linear(x.to(self.dtype), *qkv).view(-1, 3, self.heads, self.head_dim)
        attention = self.attend(*qkv.unbind(1), *attended).flatten(1)
        x = self.norm(F.linear(attention, *out) + x, *norm1)
        gate, value = F.linear(x.to(self.dtype), gated).chunk(2, -1)
        return self.norm(F.linear(F.gelu(gate) * value, *wo) + x, *norm2)

    def __call__(self, batch):
        """The mean of each sequence's tokens [sequences, d]."""
        x = self.norm(self.embedding[batch.ids], *self.first)
        for weights in self.layers:
            x = self.layer(x, weights, *batch.attended)
        sums = x.new_zeros(len(batch.members) + 1, x.shape[1], dtype=torch.float32)
        sums.index_add_(0, batch.rows, x.float())
        return sums[:-1] / batch.rows.bincount(minlength=len(sums))[:-1, None]
