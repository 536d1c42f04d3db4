"""Rows, states and tokens against Hugging Face's transformers, on small random models."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import proteins

import seqstream

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LETTERS = [
    "<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO", ".", "-", "<null_1>", "<mask>",
]  # fmt: skip


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A random model of transformers, its tokenizer, and the same model here."""
    folder = tmp_path_factory.mktemp("esm2")
    torch.manual_seed(7)
    config = transformers.EsmConfig(
        vocab_size=33, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192,
        position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False, layer_norm_eps=1e-5,
        mask_token_id=32, pad_token_id=1, max_position_embeddings=1026, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.EsmModel(config, add_pooling_layer=False).eval()
    # Random weights of transformers are small; greater ones tell layers apart.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(LETTERS))
    tokenizer = transformers.EsmTokenizer(str(folder / "vocab.txt"))
    return model, tokenizer, seqstream.Embedder(folder)


def hidden(model, tokenizer, text):
    with torch.no_grad():
        out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    layers = [h[0].numpy() for h in out.hidden_states]
    layers[-1] = out.last_hidden_state[0].numpy()
    return layers


def test_states_and_means_agree(peer):
    theirs, tokenizer, ours = peer
    for text in [*proteins(12, seed=5), "MKT<mask>AY", "XBUZO"]:
        wanted = hidden(theirs, tokenizer, text)
        states = ours.embed(text, per_token=True, layers="all")
        rows = ours.embed(text, layers="all")
        first = ours.embed(text, layers=-1, pool="cls")
        for layer in range(4):
            within = {"rtol": 2e-4, "atol": 2e-5 * max(1.0, float(np.abs(wanted[layer]).max()))}
            np.testing.assert_allclose(states[layer], wanted[layer][1:-1], **within)
            np.testing.assert_allclose(rows[layer], wanted[layer][1:-1].mean(axis=0), **within)
        np.testing.assert_allclose(first, wanted[3][0], rtol=2e-4, atol=1e-4)


def test_tokens_agree(peer):
    _, tokenizer, ours = peer
    texts = [*proteins(20, seed=6), "MK<mask>T", "mkt", "M K T", "MKT*", "MéT", "M-K.T", "J1", "<cls>MKT<eos>"]
    for text in texts:
        assert ours.tokenize(text, clean=False) == tokenizer(text)["input_ids"], text
    assert ours.tokenize(texts[:2]) == [ours.tokenize(text) for text in texts[:2]]


def test_dirty_text_becomes_what_cleaning_makes_of_it(peer):
    _, tokenizer, ours = peer
    assert ours.tokenize(" mkt ay*") == tokenizer("MKTAY")["input_ids"]
    assert ours.tokenize("MKJ1é") == tokenizer("MK<unk><unk><unk>")["input_ids"]


def test_tensors_are_returned_on_request(peer):
    _, _, ours = peer
    rows = ours.encode(proteins(3), convert_to_tensor=True)
    assert isinstance(rows, torch.Tensor) and rows.shape == (3, 48)
