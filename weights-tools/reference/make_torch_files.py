"""Makes the small PyTorch checkpoints in tests/golden/torch/.

    pip install torch==2.15.0 fair-esm==2.0.0 numpy
    python weights-tools/reference/make_torch_files.py tests/golden/torch

The models' values follow the algorithm that src/weights/random.rs documents (seed 1), written a
second time here, so that the tests have something to hold them against.
"""

import argparse
import io
import pickle
import shutil
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

M64 = (1 << 64) - 1
SEED = 1
LAYERS, D, HEADS, FFN, VOCAB = 2, 4, 2, 6, 33


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & M64
    return h


def tensor(name, shape, role):
    """One tensor of the random model, float32."""
    key = mix(mix(SEED) ^ fnv1a64(name))
    width = shape[-1]
    outlier = key % min(100, width)
    f = np.float32
    values = []
    for i in range(int(np.prod(shape))):
        if role == "inv_freq":
            exact = 1 / 10000 ** (2 * i / (D // HEADS))
            values.append(f(np.float16(exact)))
            continue
        bits = mix((key + (i + 1) * 0x9E3779B97F4A7C15) & M64)
        total = sum(bits >> 16 * k & 0xFFFF for k in range(4)) - 2 * 65535
        n = f(total) * (f(1) / f(37837.227))
        out = (i % width) % 100 == outlier
        if role == "linear":
            n = n * (f(1) / np.sqrt(f(width)))
        elif role == "bias":
            n = f(0.1) * n
        elif role == "gain":
            n = (f(1) + f(0.1) * n) * f(4 if out else 1)
        elif role == "embedding":
            n = f(0.3) * n * f(6 if out else 1)
        values.append(n)
    return torch.from_numpy(np.array(values, dtype=np.float32).reshape(shape))


def esm(layers):
    """Canonical names to tensors."""
    t = OrderedDict()

    def linear(name, out, into):
        t[name + ".weight"] = tensor(name + ".weight", (out, into), "linear")
        t[name + ".bias"] = tensor(name + ".bias", (out,), "bias")

    def norm(name):
        t[name + ".weight"] = tensor(name + ".weight", (D,), "gain")
        t[name + ".bias"] = tensor(name + ".bias", (D,), "bias")

    name = "embeddings.word_embeddings.weight"
    t[name] = tensor(name, (VOCAB, D), "embedding")
    for i in range(layers):
        p = f"encoder.layer.{i}."
        norm(p + "attention.LayerNorm")
        for part in ("query", "key", "value"):
            linear(p + f"attention.self.{part}", D, D)
        name = p + "attention.self.rotary_embeddings.inv_freq"
        t[name] = tensor(name, (D // HEADS // 2,), "inv_freq")
        linear(p + "attention.output.dense", D, D)
        norm(p + "LayerNorm")
        linear(p + "intermediate.dense", FFN, D)
        linear(p + "output.dense", D, FFN)
    norm("encoder.emb_layer_norm_after")
    return t


FAIR_ESM = [
    ("encoder.layer.", "layers."),
    ("attention.LayerNorm", "self_attn_layer_norm"),
    ("attention.self.query", "self_attn.q_proj"),
    ("attention.self.key", "self_attn.k_proj"),
    ("attention.self.value", "self_attn.v_proj"),
    ("attention.self.rotary_embeddings", "self_attn.rot_emb"),
    ("attention.output.dense", "self_attn.out_proj"),
    ("intermediate.dense", "fc1"),
    ("output.dense", "fc2"),
    ("encoder.emb_layer_norm_after", "emb_layer_norm_after"),
    ("embeddings.word_embeddings", "embed_tokens"),
    (".LayerNorm", ".final_layer_norm"),
]


def fair_esm_name(name):
    for theirs, ours in FAIR_ESM:
        name = name.replace(theirs, ours)
    return name


def check_fair_esm_names(names):
    """The names are those of fair-esm's own model."""
    from esm.model.esm2 import ESM2

    real = set(ESM2(LAYERS, D, HEADS, "ESM-1b").state_dict())
    unknown = set(names) - real
    assert not unknown, unknown


def rezip(source, target, change=lambda name, data: data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for item in old.infolist():
            new.writestr(item.filename, change(item.filename, old.read(item.filename)))


def main():
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    # Hugging Face, f32, with prefix; a tied head, an integer buffer, and two tensors that share one
    # storage, the second at an offset.
    state = OrderedDict(("esm." + k, v) for k, v in esm(1).items())
    a, b = "esm.encoder.layer.0.LayerNorm.weight", "esm.encoder.layer.0.LayerNorm.bias"
    shared = torch.cat([state[a], state[b]])
    state[a], state[b] = shared[:D], shared[D:]
    state["esm.embeddings.position_ids"] = torch.arange(4).expand(1, -1)
    state["lm_head.decoder.weight"] = state["esm.embeddings.word_embeddings.weight"]
    torch.save(state, out / "hugging_face.bin")

    # The same, bf16, as parameters, in two shards.
    bare = [(k, torch.nn.Parameter(v.bfloat16())) for k, v in esm(1).items()]
    torch.save(OrderedDict(bare[:12]), out / "pytorch_model-00001-of-00002.bin")
    torch.save(OrderedDict(bare[12:]), out / "pytorch_model-00002-of-00002.bin")

    # fair-esm, f16, as published.
    theirs = OrderedDict((fair_esm_name(k), v) for k, v in esm(LAYERS).items())
    check_fair_esm_names(theirs)
    model = OrderedDict(("encoder.sentence_encoder." + k, v.half()) for k, v in theirs.items())
    settings = argparse.Namespace(
        arch="esm2", encoder_layers=LAYERS, encoder_embed_dim=D, encoder_attention_heads=HEADS, token_dropout=True
    )
    torch.save({"cfg": {"model": settings, "task": None}, "model": model}, out / "fair_esm.pt")

    # One tensor each, to be refused or not for one reason.
    one = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    torch.save({"x": one}, out / "one.bin")
    torch.save({"x": one.t()}, out / "transposed.bin")
    torch.save({"x": one}, out / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"x": torch.nn.Linear(1, 1)}, out / "module.bin")
    rezip(out / "one.bin", out / "deflated.bin", compression=zipfile.ZIP_DEFLATED)
    rezip(out / "one.bin", out / "big_endian.bin", lambda n, d: b"big" if n.endswith("byteorder") else d)

    class Exploit:
        def __reduce__(self):
            import os

            return os.system, ("touch executed-by-pickle",)

    code = io.BytesIO()
    pickle.Pickler(code, protocol=2).dump({"x": Exploit()})
    rezip(out / "one.bin", out / "malicious.bin", lambda n, d: code.getvalue() if n.endswith("data.pkl") else d)

    # Sizes and offsets of every entry in zip64's fields, as in archives past 4 GiB.
    zipfile.ZIP64_LIMIT = 1
    rezip(out / "one.bin", out / "zip64.bin")

    for path in sorted(out.iterdir()):
        print(path.stat().st_size, path)


main()
