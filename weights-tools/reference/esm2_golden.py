"""Golden files for ESM-2: float64 states from Hugging Face's EsmModel and from fair-esm's ESM2.

    python esm2_golden.py --weights-tools target/release/weights-tools --out tests/golden/models

Both run on the same stored float32 weights, in float64 throughout, and must agree to 1e-12. What is written
is Hugging Face's float64 run, and the distance of its own float32 run (sdpa, each sequence alone).
"""

import argparse
import contextlib
import json
import pathlib
import tempfile
from unittest import mock

import esm
import esm.multihead_attention
import torch
from transformers import EsmConfig, EsmModel, EsmTokenizer

from common import FRESH, Golden, chosen_layers, load_weights, make_model, random_text, relative_error, settle

# The head dims of the six published sizes, 8M to 15B; 64 stands at 650M and at 3B.
MODELS = {
    "esm2-head16": dict(kind="esm2", layers=6, hidden=80, heads=5, intermediate=320, seed=11),
    "esm2-head24": dict(kind="esm2", layers=12, hidden=120, heads=5, intermediate=480, seed=12),
    "esm2-head32": dict(kind="esm2", layers=4, hidden=128, heads=4, intermediate=512, seed=13),
    "esm2-head64": dict(kind="esm2", layers=3, hidden=256, heads=4, intermediate=1024, seed=14),
    "esm2-head64-odd": dict(kind="esm2", layers=3, hidden=320, heads=5, intermediate=1280, seed=15),
    "esm2-head128": dict(kind="esm2", layers=3, hidden=384, heads=3, intermediate=1536, seed=16),
}
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
SEQUENCES = {
    "one": "M",
    "five": "MKLVW",
    "fifty": random_text(RESIDUES, 50, 1),
    "hundred-thirty": random_text(RESIDUES, 130, 2),
    "rare": "MBKUZLOXX.GA-VWBUTZ.OXEP",
    "masked": "MKT<mask>AYIAK<mask><mask>RQISFVKSHFSRQ<mask>LEERLGLIEVQ<mask>",
    "three-hundred": random_text(RESIDUES, 300, 3),
    "eleven-hundred": random_text(RESIDUES, 1100, 4),
}
# Attention's cost: the longest stands only in the two smallest models, so that the test is quick.
LONGEST_IN = ("esm2-head16", "esm2-head32")
VOCABULARY = ("<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>").split()
# Published checkpoints hold inv_freq under every layer; transformers holds it once, beside the encoder.
LAYER_INV_FREQ = "encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"


def hugging_face(weights, config, dtype, attention):
    """EsmModel with every weight set from `weights`, the stored inv_freq among them."""
    config = EsmConfig(**{**config, "dtype": "float32"})
    model = EsmModel(config, add_pooling_layer=False)
    model.set_attn_implementation(attention)
    state = {name: tensor for name, tensor in weights.items() if not name.startswith("lm_head.")}
    inv_freq = state[LAYER_INV_FREQ.format(0)]
    for layer in range(config.num_hidden_layers):
        if not torch.equal(state.pop(LAYER_INV_FREQ.format(layer)), inv_freq):
            raise SystemExit(f"layer {layer} has another inv_freq than layer 0; transformers holds one for all")
    # Set by hand: transformers' loader may compute it anew, without the fp16 rounding a checkpoint carries.
    state["rotary_embeddings.inv_freq"] = inv_freq
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith("contact_head.")]
    unexpected = [name for name in unexpected if "position" not in name]
    if missing or unexpected:
        raise SystemExit(f"Hugging Face's EsmModel: missing {missing}, unexpected {unexpected}")
    model = model.to(dtype).eval()
    assert torch.equal(model.rotary_embeddings.inv_freq.float(), inv_freq)
    return model


def hugging_face_states(model, ids, float64):
    """The representations [layers + 1, tokens, d] of one sequence; the last after the final LayerNorm."""
    states = []
    hooks = [model.embeddings.register_forward_hook(lambda module, args, out: states.append(out[0]))]
    for layer in model.encoder.layer:
        hooks.append(layer.register_forward_hook(
            lambda module, args, out: states.append((out if torch.is_tensor(out) else out[0])[0])))
    # EsmModel casts to float32 in three places (the share of masks, the angles, the rotated q and k):
    # all by Tensor.float(), which in the float64 run therefore is Tensor.double().
    exact = mock.patch.object(torch.Tensor, "float", torch.Tensor.double) if float64 else contextlib.nullcontext()
    with exact:
        ids = torch.tensor([ids])
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    for hook in hooks:
        hook.remove()
    states[-1] = out
    wanted = torch.float64 if float64 else torch.float32
    assert all(state.dtype == wanted for state in states) and len(states) == len(model.encoder.layer) + 1
    return torch.stack(states).numpy()


def fair_esm(weights, config):
    """fair-esm's ESM2 in float64, from the same weights under its own names."""
    alphabet = esm.Alphabet.from_architecture("ESM-1b")
    assert alphabet.all_toks == VOCABULARY, "fair-esm's alphabet is another one"
    model = esm.ESM2(config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"],
                     alphabet, token_dropout=config["token_dropout"])
    assert config["intermediate_size"] == 4 * config["hidden_size"], "fair-esm knows only 4d"
    state = {"embed_tokens.weight": weights["embeddings.word_embeddings.weight"]}
    for i in range(config["num_hidden_layers"]):
        theirs, ours = f"layers.{i}.", f"encoder.layer.{i}."
        state[theirs + "self_attn.rot_emb.inv_freq"] = weights[LAYER_INV_FREQ.format(i)]
        for part in ("weight", "bias"):
            for short, long in (("q_proj", "self.query"), ("k_proj", "self.key"), ("v_proj", "self.value"),
                                ("out_proj", "output.dense")):
                state[f"{theirs}self_attn.{short}.{part}"] = weights[f"{ours}attention.{long}.{part}"]
            state[f"{theirs}self_attn_layer_norm.{part}"] = weights[f"{ours}attention.LayerNorm.{part}"]
            state[f"{theirs}final_layer_norm.{part}"] = weights[f"{ours}LayerNorm.{part}"]
            state[f"{theirs}fc1.{part}"] = weights[f"{ours}intermediate.dense.{part}"]
            state[f"{theirs}fc2.{part}"] = weights[f"{ours}output.dense.{part}"]
    for part in ("weight", "bias"):
        state[f"emb_layer_norm_after.{part}"] = weights[f"encoder.emb_layer_norm_after.{part}"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith(("lm_head.", "contact_head."))]
    if missing or unexpected:
        raise SystemExit(f"fair-esm's ESM2: missing {missing}, unexpected {unexpected}")
    return model.double().eval(), alphabet


def fair_esm_states(model, ids):
    layers = list(range(model.num_layers + 1))
    # fair-esm takes the softmax in float32 whatever the dtype.
    softmax = lambda x, dim, onnx_trace=False: torch.softmax(x, dim)
    with mock.patch.object(esm.multihead_attention, "utils_softmax", softmax):
        # need_head_weights keeps its own attention in use, not torch's fused one.
        found = model(torch.tensor([ids]), repr_layers=layers, need_head_weights=True)["representations"]
    return torch.stack([found[layer][0] for layer in layers]).numpy()


def residue_means(states):
    """Means over residues, without cls and eos: [layers + 1, d], in the dtype of `states`, as users take them."""
    return torch.from_numpy(states)[:, 1:-1].mean(1).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights-tools", required=True, type=pathlib.Path, help="the program weights-tools")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="where the golden files go")
    parser.add_argument("--only", help="only this model")
    options = parser.parse_args()
    settle()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "vocab.txt").write_text("\n".join(VOCABULARY))
        tokenizer = EsmTokenizer(str(scratch / "vocab.txt"))
        for name, spec in MODELS.items():
            spec = {**spec, "seed": spec["seed"] + FRESH}
            if options.only not in (None, name):
                continue
            print(name, json.dumps(spec))
            weights_blake3 = make_model(options.weights_tools, spec, scratch / name)
            weights, config = load_weights(scratch / name, "esm.")
            texts = {label: text for label, text in SEQUENCES.items() if len(text) < 1000 or name in LONGEST_IN}
            golden_file(weights, config, spec, weights_blake3, texts, tokenizer, options.out / f"{name}.safetensors")


def golden_file(weights, config, spec, weights_blake3, texts, tokenizer, path):
    exact = hugging_face(weights, config, torch.float64, "eager")
    float32 = hugging_face(weights, config, torch.float32, "sdpa")
    other, alphabet = fair_esm(weights, config)
    layers = chosen_layers(spec["layers"])
    golden = Golden(spec, weights_blake3, layers, "mean over residues, without cls and eos",
                    "Hugging Face EsmModel, float32, sdpa, each sequence alone")
    worst = 0.0
    for label, text in texts.items():
        ids = tokenizer(text)["input_ids"]
        theirs = [alphabet.cls_idx, *alphabet.encode(text), alphabet.eos_idx]
        assert ids == theirs, f"{label}: the two tokenizers differ: {ids} and {theirs}"
        states = hugging_face_states(exact, ids, float64=True)
        peer = fair_esm_states(other, ids)
        worst = max(worst, *(relative_error(a, b) for a, b in zip(peer, states)))
        near = hugging_face_states(float32, ids, float64=False)
        golden.add(label, text, ids, states[-1], near[-1], residue_means(states)[layers], residue_means(near)[layers])
    print(f"  fair-esm and Hugging Face, float64, worst layer of any sequence: {worst:.1e}")
    if worst > 1e-12:
        raise SystemExit("the two float64 references disagree")
    golden.write(path, f"fair-esm ESM2 in float64 agrees to {worst:.1e} (relative, worst layer of any sequence)")


if __name__ == "__main__":
    main()
