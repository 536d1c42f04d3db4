"""Errors and warnings, in the words of Python."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings

import pytest
from conftest import program, proteins, same_bits, write_fasta

import seqstream


@pytest.mark.parametrize(
    ("call", "error", "code", "message", "hint"),
    [
        (lambda m: m.embed(["MKT", "  "]), seqstream.InputError, 3, r"sequences\[1\]", "remove the record"),
        (lambda m: m.embed(""), seqstream.InputError, 3, "the sequence", "remove the record"),
        (
            lambda m: m.embed(["MKTAY"], max_length=3, long="error"),
            seqstream.InputError, 3, "has 5 tokens, and the job allows 3", 'long="window"',
        ),
        (lambda m: m.embed(["mkt"], strict=True), seqstream.InputError, 3, r"sequences\[0\]", "leave strict out"),
        (lambda m: m.embed(["M"], layers=9), seqstream.UsageError, 2, "there is no layer 9", "from 0 to 4"),
        (lambda m: m.embed(["M"], layers="first"), seqstream.UsageError, 2, "layers", None),
        (lambda m: m.embed(["M"], pool="median"), seqstream.UsageError, 2, "median", "mean, cls, max"),
        (lambda m: m.embed(["M"], stride=3), seqstream.UsageError, 2, "max_length", None),
        (lambda m: m.embed(["M"], max_length=0), seqstream.UsageError, 2, "max_length", None),
        (
            lambda m: m.embed(["M"], per_token=True, max_length=3, long="window"),
            seqstream.UsageError, 2, "per_token cannot go with long window", "long truncate",
        ),
        (lambda m: seqstream.Embedder("no/such/folder"), seqstream.ModelError, 4, "no/such/folder", ""),
        (lambda m: seqstream.Embedder(m._name, device="tpu"), seqstream.UsageError, 2, "device tpu", "give cpu, cuda"),
        (lambda m: seqstream.Embedder(m._name, dtype="f16"), seqstream.UsageError, 2, "the CPU computes in f32", ""),
    ],
)
def test_errors_have_a_class_a_hint_and_a_code(model, call, error, code, message, hint):
    with pytest.raises(error, match=message) as raised:
        call(model)
    assert raised.value.exit_code == code
    assert "--" not in str(raised.value), "flags are for the command line"
    assert hint is None or hint in (raised.value.hint or "")
    assert model.embed(["MKT"]).shape == (1, model.width), "the model is usable"


def test_a_missing_driver_is_an_error_with_a_hint(tiny):
    code = (
        "import seqstream, sys\n"
        "try: seqstream.Embedder(sys.argv[1], device='cuda')\n"
        "except seqstream.DeviceError as e: print(e.exit_code, e.hint is not None)\n"
    )
    environment = {**os.environ, "SEQSTREAM_LIBCUDA": "/no/driver"}
    done = subprocess.run([sys.executable, "-c", code, tiny], capture_output=True, text=True, env=environment)
    assert done.stdout == "7 True\n", done.stderr


def test_what_is_no_sequence_is_a_type_error(model):
    for wrong in (5, [5], ["MKT", None]):
        with pytest.raises(TypeError):
            model.embed(wrong)
    assert issubclass(seqstream.InputError, ValueError) and issubclass(seqstream.UsageError, ValueError)


def test_dirty_text_is_cleaned_and_counted(model):
    clean = model.embed(["MKTAY", "GAVLI"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_bits(model.embed([" mkt\nay*", "GA VLI"]), clean)
    assert model.counts["lowercase"] == 5 and model.counts["stops_dropped"] == 1 and model.counts["whitespace"] == 3
    assert same_bits(model.embed(["MK\udc80"]), model.embed(["MK\u00e9"])), "a lone surrogate is an unknown character"
    assert same_bits(model.embed(["M-KT"], gaps="drop"), model.embed(["MKT"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MK-T", 'gap characters are kept \\(1\\).*gaps="drop"'),
        ("MKT:GAV", "colons between chains"),
        ("ACGT" * 20, "this looks like DNA, and the model reads proteins \\(1 of 1 sequences\\)"),
    ],
)
def test_doubtful_text_is_computed_with_a_warning(model, text, said):
    with pytest.warns(seqstream.InputWarning, match=said) as seen:
        model.embed([text])
    assert seen[0].filename == __file__, "the warning names the line of the caller"


LONG = """
import os, seqstream, signal, sys, threading
model = seqstream.Embedder(sys.argv[1], token_budget=512)
first = model.embed(["MKTAYIAK"])
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    model.embed(["MKTAYIAKQRQISFVKSHFSRQ" * 20] * 200_000)
except KeyboardInterrupt:
    assert (model.embed(["MKTAYIAK"]) == first).all()
    print("interrupted")
"""


def test_ctrl_c_ends_a_call_and_leaves_the_model_usable(tiny):
    done = subprocess.run([sys.executable, "-c", LONG, tiny], capture_output=True, text=True)
    assert done.stdout == "interrupted\n", done.stderr


JOB = """
import os, seqstream, signal, sys, threading, time
model = seqstream.Embedder(sys.argv[1])
out = sys.argv[3]
def interrupt():
    while not os.path.exists(os.path.join(out, "shard-000000")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    model.embed_fasta(sys.argv[2], out, shard_size=8, token_budget=64)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_a_job_after_its_shard_and_it_is_resumed(model, tiny, tmp_path):
    sequences = proteins(3_000)
    fasta = write_fasta(tmp_path / "in.fa", sequences)
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", JOB, tiny, fasta, out], capture_output=True, text=True)
    assert done.stdout == "interrupted\n", done.stderr
    standing = [p.name for p in out.iterdir() if p.name.startswith("shard-") and p.suffix == ""]
    assert 0 < len(standing) < 375 and not (out / "manifest.json").exists()
    model.embed_fasta(fasta, out, shard_size=8, resume=True)
    assert len(seqstream.open(out)) == 3_000


def test_other_threads_run_while_the_engine_computes(model):
    counted = 0
    stop = threading.Event()

    def count():
        nonlocal counted
        while not stop.is_set():
            counted += 1

    sequences = proteins(400)
    thread = threading.Thread(target=count)
    thread.start()
    before = counted
    model.embed(sequences)
    during = counted - before
    stop.set()
    thread.join()
    assert during > 1000


def in_child(model, queue):
    try:
        model.embed(["MKT"])
        queue.put("no error")
    except seqstream.DeviceError as error:
        queue.put(error.hint)
    queue.put(seqstream.Embedder(model._name).embed(["MKT"]).tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_model_is_of_its_process(model):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(model, queue))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    assert '"spawn"' in queue.get(timeout=60)
    assert queue.get(timeout=60) == model.embed(["MKT"]).tobytes()
    child.join()


def test_the_command_is_the_program(tiny, tmp_path):
    assert program("-V").stdout == f"seqstream {seqstream.__version__}\n"
    wrong = program("embed", check=False)
    assert wrong.returncode == 2 and "--model" in wrong.stderr
    bad = tmp_path / "bad.fa"
    bad.write_text(">a\n\n")
    failed = program("embed", bad, "--model", tiny, "--out", tmp_path / "out", check=False)
    assert failed.returncode == 3 and failed.stderr.startswith("error:")


def test_the_command_stops_at_ctrl_c_with_its_exit_code(tiny, tmp_path):
    fasta = write_fasta(tmp_path / "in.fa", proteins(3_000))
    out = tmp_path / "out"
    command = [os.path.join(os.path.dirname(sys.executable), "seqstream"), "embed", fasta, "--model", tiny]
    command += ["--out", out, "--shard-size", "8", "--token-budget", "64"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out / "shard-000000").exists() and running.poll() is None:
        pass
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    assert running.returncode == 130, said
    assert "Traceback" not in said and "--resume" in said


def test_importing_needs_neither_numpy_nor_a_driver():
    code = "import sys, seqstream; print(sorted(m for m in sys.modules if m in ('numpy', 'torch', 'pandas')))"
    environment = {**os.environ, "SEQSTREAM_LIBCUDA": "/no/driver"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "[]\n", done.stderr
