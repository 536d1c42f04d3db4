"""What `embed` and its relatives return: the bits of the program, in the order of the input."""

from __future__ import annotations

import itertools
import pickle
import threading

import numpy as np
import pytest
from conftest import program, proteins, rows_of, same_bits, write_fasta

import seqstream


def test_rows_have_the_bits_of_the_program(model, job):
    sequences, out = job
    rows = model.embed(sequences)
    assert same_bits(rows, rows_of(out, "layer_4_mean.npy"))
    one = model.embed(sequences[3])
    assert one.shape == (model.width,) and same_bits(one, rows[3])
    assert same_bits(model.embed([s.encode() for s in sequences]), rows)
    assert same_bits(model.embed(s for s in sequences), rows), "an iterator is as good as a list"


def test_layers_and_poolings_have_the_bits_of_the_program(model, job):
    sequences, out = job
    everything = model.embed(sequences, layers="all", pool=["mean", "max"])
    assert list(everything) == [0, 1, 2, 3, 4]
    for layer, rows in everything.items():
        assert rows.shape == (len(sequences), 2, model.width)
        for i, pool in enumerate(["mean", "max"]):
            assert same_bits(np.ascontiguousarray(rows[:, i]), rows_of(out, f"layer_{layer}_{pool}.npy"))
    some = model.embed(sequences, layers=[2, -1], pool="max")
    assert list(some) == [2, 4]
    assert same_bits(some[2], rows_of(out, "layer_2_max.npy"))
    assert same_bits(model.embed(sequences, layers=2, pool="max"), some[2])
    assert model.embed(sequences[0], layers=[0], pool=["cls"])[0].shape == (1, model.width)


def test_states_have_the_bits_of_the_program(model, job):
    sequences, out = job
    read = seqstream.open(out)
    states = model.embed(sequences, per_token=True)
    assert [s.shape for s in states] == [(len(text), model.width) for text in sequences]
    assert all(same_bits(s, np.array(read.states(i))) for i, s in enumerate(states))
    by_layer = model.embed(sequences[5], per_token=True, layers=[1, 3])
    assert all(same_bits(by_layer[n], np.array(read.states(5, n))) for n in (1, 3))


@pytest.mark.parametrize("how", [{"long": "truncate"}, {"long": "window"}, {"long": "window", "stride": 3}])
def test_long_sequences_are_treated_as_the_program_does(model, tiny, tmp_path, how):
    sequences = proteins(20)
    flags = itertools.chain.from_iterable((f"--{name}", value) for name, value in how.items())
    fasta = write_fasta(tmp_path / "in.fa", sequences)
    program(
        "embed", fasta, "--model", tiny, "--out", tmp_path / "out", "--max-length", 7, "--pool", "mean,max", *flags
    )
    rows = model.embed(sequences, max_length=7, pool=["mean", "max"], **how)
    for i, pool in enumerate(["mean", "max"]):
        assert same_bits(np.ascontiguousarray(rows[:, i]), rows_of(tmp_path / "out", f"layer_4_{pool}.npy"))
    long = sum(len(s) > 7 for s in sequences)
    assert model.counts["truncated" if how["long"] == "truncate" else "windowed"] == long > 0


def test_no_sequences_give_no_rows(model):
    assert model.embed([]).shape == (0, model.width)
    assert model.embed([], per_token=True) == []
    assert list(model.iter_embed([])) == []


def test_rows_are_normalized_on_request(model):
    rows = model.embed(proteins(5), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_a_stream_keeps_its_order_and_runs_only_so_far_ahead(model, monkeypatch):
    monkeypatch.setattr("seqstream._model._GROUP_SEQUENCES", 8)
    sequences = proteins(100)
    taken = 0

    def records():
        nonlocal taken
        for i, text in enumerate(sequences):
            taken += 1
            yield (f"id{i}", text)

    rows = model.embed(sequences)
    seen = []
    for i, record in enumerate(model.iter_embed(records(), per_token=True)):
        assert record.id == f"id{i}" and same_bits(record.pooled, rows[i])
        assert record.states.shape == (len(sequences[i]), model.width)
        # One group is used, and one is computed.
        assert taken <= (i // 8 + 2) * 8
        seen.append(record.id)
    assert len(seen) == 100
    dicts = [{"id": "a", "sequence": "MKT"}, {"id": "b", "seq": "GAVLI"}, {"seq": "LIP"}]
    assert [r.id for r in model.iter_embed(dicts)] == ["a", "b", "2"]
    states = list(model.iter_embed(["MKT"], pool=None, per_token=True, layers=[0, 4]))[0]
    assert states.pooled is None and list(states.states) == [0, 4]
    with pytest.raises(TypeError, match="record 0 is a int"):
        next(model.iter_embed([5]))


def test_encode_takes_the_place_of_sentence_transformers(model):
    sequences = proteins(4)
    rows = model.encode(sequences, batch_size=2, show_progress_bar=False, normalize_embeddings=True)
    assert same_bits(rows, model.embed(sequences, normalize=True))
    assert model.encode(sequences[0]).shape == (model.get_sentence_embedding_dimension(),)
    tokens = model.encode(sequences, output_value="token_embeddings")
    assert [t.shape[0] for t in tokens] == [len(s) for s in sequences]
    listed = model.encode(sequences, convert_to_numpy=False)
    assert isinstance(listed, list) and len(listed) == 4
    for wrong in ({"precision": "int8"}, {"prompt": "x"}, {"output_value": "logits"}):
        with pytest.raises(seqstream.UsageError):
            model.encode(sequences, **wrong)


def test_threads_share_a_model(model):
    sequences = [proteins(40, seed) for seed in range(4)]
    wanted = [model.embed(s) for s in sequences]
    found: list = [None] * 4

    def work(i):
        for _ in range(3):
            found[i] = model.embed(sequences[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(same_bits(a, b) for a, b in zip(found, wanted))


def test_a_pickled_model_opens_the_same_model(model):
    again = pickle.loads(pickle.dumps(model))
    assert again.identity == model.identity
    assert same_bits(again.embed(["MKTAYIAK"]), model.embed(["MKTAYIAK"]))


def test_the_model_says_what_it_is(model, job):
    read = seqstream.open(job[1])
    assert model.config == read.job["model"]["config"]
    identity = model.identity
    assert identity["model"] == read.job["model"]["blake3"]
    assert identity["processor"] == read.job["processor"] and identity["device"] == "cpu"
    assert model.streams.status() == []


def test_a_trace_has_the_last_call(tiny, tmp_path):
    model = seqstream.Embedder(tiny, trace=True, token_budget=64)
    model.embed(proteins(30))
    many = len(model.streams.trace()["events"])
    model.embed(proteins(1))
    trace = model.streams.trace()
    assert trace["schema"] == "seqstream-trace" and 0 < len(trace["events"]) < many
    chrome, own = model.streams.save_trace(tmp_path / "t.json")
    import json

    assert json.load(open(own))["events"] == trace["events"] and json.load(open(chrome))
    with pytest.raises(seqstream.UsageError, match="records no trace"):
        seqstream.Embedder(tiny).streams.trace()
