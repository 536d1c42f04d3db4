"""`seqstream.open`, and `embed_fasta`, which is the program's job."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
from conftest import program, proteins, same_bits, write_fasta

import seqstream


def tree(folder: pathlib.Path) -> dict[str, bytes]:
    # The record of the runs has times in it, and is no part of the output.
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".runs.jsonl"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_rows_and_states_are_found_by_position_and_name(model, job):
    sequences, out = job
    read = seqstream.open(out)
    assert len(read) == 70 and read.ids[:2] == ["p0", "p1"] and read.layers == [0, 1, 2, 3, 4]
    rows = model.embed(sequences)
    assert same_bits(read.numpy(), rows) and same_bits(read.numpy(-1, "mean"), rows)
    assert same_bits(np.array(read[40]), rows[40]) and same_bits(np.array(read["p40"]), rows[40])
    assert same_bits(np.array(read[-1]), rows[-1])
    assert read.states("p69", 2).shape == (len(sequences[69]), model.width)
    assert "p3" in read and "q3" not in read
    with pytest.raises(IndexError):
        read[70]
    with pytest.raises(KeyError, match="no sequence is named 'q3'"):
        read["q3"]
    with pytest.raises(KeyError, match="layers"):
        read.numpy(9)
    with pytest.raises(KeyError, match="poolings"):
        read.numpy(4, "cls")


def test_names_that_several_sequences_share_are_no_keys(model, tmp_path):
    names = ["sp|P12345|A_B", "x", "x", "tr|Q1|C", "tr|Q1|D", "P9", "sp|P9|E"]
    fasta = write_fasta(tmp_path / "in.fa", proteins(7), names)
    with pytest.warns(seqstream.InputWarning, match="share a name"):
        model.embed_fasta(fasta, tmp_path / "out")
    read = seqstream.open(tmp_path / "out")
    assert read.duplicates == {"x": [1, 2]}
    assert read.index("P12345") == read.index("sp|P12345|A_B") == 0
    assert read.index("P9") == 5, "a whole name goes before an accession"
    for name in ("x", "Q1"):
        with pytest.raises(KeyError, match="2 sequences are named"):
            read[name]


def test_embed_fasta_writes_the_bytes_of_the_program(model, tiny, tmp_path):
    fasta = write_fasta(tmp_path / "in.fa", proteins(50))
    manifest = model.embed_fasta(fasta, tmp_path / "here", shard_size=16, layers=[1, -1], max_length=20)
    flags = ("--shard-size", 16, "--layers", "1,-1", "--max-length", 20)
    program("embed", fasta, "--model", tiny, "--out", tmp_path / "there", *flags)
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert manifest["complete"] and manifest["records"] == 50 and "shards" not in manifest


def test_a_job_is_resumed_and_shared(model, tmp_path):
    fasta = write_fasta(tmp_path / "in.fa", proteins(50))
    model.embed_fasta(fasta, tmp_path / "whole", shard_size=16)
    whole = tree(tmp_path / "whole")
    with pytest.raises(seqstream.ResumeError, match="already holds a job") as refused:
        model.embed_fasta(fasta, tmp_path / "whole", shard_size=16)
    assert refused.value.exit_code == 6 and "give resume=True to go on with it" in refused.value.hint
    shutil.rmtree(tmp_path / "whole" / "shard-000001")
    (tmp_path / "whole" / "manifest.json").unlink()
    with pytest.raises(seqstream.OutputError, match="is not complete") as incomplete:
        seqstream.open(tmp_path / "whole")
    assert "resume=True" in incomplete.value.hint
    model.embed_fasta(fasta, tmp_path / "whole", shard_size=16, resume=True)
    assert tree(tmp_path / "whole") == whole
    for i in (1, 2):
        model.embed_fasta(fasta, tmp_path / f"part{i}", shard_size=16, share=f"{i}/2")
    program("merge", tmp_path / "part1", tmp_path / "part2", "--out", tmp_path / "merged")
    merged = seqstream.open(tmp_path / "merged")
    assert same_bits(merged.numpy(), seqstream.open(tmp_path / "whole").numpy())


def test_an_output_that_was_damaged_is_refused(job, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(job[1], copy)
    rows = copy / "shard-000001" / "layer_4_mean.npy"
    rows.write_bytes(rows.read_bytes()[:-4])
    with pytest.raises(seqstream.OutputError, match="layer_4_mean.npy has .* bytes, and the manifest says"):
        seqstream.open(copy)
    rows.unlink()
    with pytest.raises(seqstream.OutputError, match="layer_4_mean.npy cannot be read"):
        seqstream.open(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(seqstream.OutputError, match="manifest.json cannot be read"):
        seqstream.open(copy)
    with pytest.raises(seqstream.OutputError, match="holds no output"):
        seqstream.open(tmp_path / "nowhere")


def test_what_the_job_did_not_keep_is_an_error(model, tmp_path):
    fasta = write_fasta(tmp_path / "in.fa", proteins(3))
    model.embed_fasta([fasta], tmp_path / "rows")
    with pytest.raises(seqstream.OutputError, match="kept no states"):
        seqstream.open(tmp_path / "rows").states(0)
    model.embed_fasta([fasta], tmp_path / "states", pool="none", per_token=True)
    read = seqstream.open(tmp_path / "states")
    with pytest.raises(seqstream.OutputError, match="no pooled rows"):
        read[0]
    assert read.states(0).shape[1] == model.width


def test_options_that_embed_fasta_does_not_know_are_errors(model, tmp_path):
    fasta = write_fasta(tmp_path / "in.fa", proteins(3))
    with pytest.raises(seqstream.UsageError, match="colour"):
        model.embed_fasta(fasta, tmp_path / "out", colour="red")
    with pytest.raises(seqstream.UsageError, match="long") as wrong:
        model.embed_fasta(fasta, tmp_path / "out", max_length=5, long="cut")
    assert "truncate" in wrong.value.hint
    bad = tmp_path / "bad.fa"
    bad.write_text(">a\nMKT\n>b\n\n>c\nGAV\n")
    with pytest.raises(seqstream.InputError, match="record 2") as empty:
        model.embed_fasta(bad, tmp_path / "out")
    assert "--" not in str(empty.value)
    with pytest.warns(seqstream.InputWarning, match="1 bad record is skipped"):
        manifest = model.embed_fasta(bad, tmp_path / "out", bad_records="skip")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["rejected"] == manifest["rejected"]
    assert seqstream.open(tmp_path / "out").ids == ["a", "c"]
