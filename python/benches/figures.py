"""Measures what docs/python.md promises: import, Ctrl-C, the GIL, and the throughput against the program.

    python figures.py [MODEL]

Without MODEL it is examples/tiny-esm2. Figures of a loaded machine mean little: compare those of one run with each other.
"""

import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time

MODEL = sys.argv[1] if len(sys.argv) > 1 else str(pathlib.Path(__file__).resolve().parents[2] / "examples/tiny-esm2")


def imports():
    """The seconds that `import seqstream` adds to a start of Python."""
    code = "import time; t = time.perf_counter(); import seqstream; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(9)]
    print(f"import seqstream: {1000 * statistics.median(times):.0f} ms, the median of 9")


def proteins(n, length):
    rng = random.Random(1)
    return ["".join(rng.choices("LAGVSERTIDPKQNFYMHWC", k=length)) for _ in range(n)]


def interrupt(model):
    """The seconds from SIGINT to KeyboardInterrupt, in the middle of a call that would take minutes."""
    times = []
    for _ in range(5):
        sent = []

        def kill():
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        threading.Timer(0.7, kill).start()
        try:
            model.embed(proteins(300, 400) * 400)
        except KeyboardInterrupt:
            times.append(time.perf_counter() - sent[0])
        model.embed("MKT")
    print(f"Ctrl-C: {1000 * max(times):.0f} ms, the longest of {len(times)}; the model was usable after each")


def gil(model):
    """What a counting thread loses beside a call that computes on one thread, against an idle main thread."""
    count = 0
    stop = threading.Event()

    def counting():
        nonlocal count
        while not stop.is_set():
            count += 1

    threading.Thread(target=counting, daemon=True).start()

    def rate(what):
        start, before = time.perf_counter(), count
        what()
        return (count - before) / (time.perf_counter() - start)

    sequences = proteins(200, 300)
    seconds = timed(lambda: model.embed(sequences))
    idle = [rate(lambda: time.sleep(seconds)) for _ in range(3)]
    busy = [rate(lambda: model.embed(sequences)) for _ in range(3)]
    stop.set()
    print(f"a counting thread keeps {statistics.median(busy) / statistics.median(idle):.0%} of its speed beside a call")


def timed(what):
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def throughput(model):
    """The tokens per second of `embed`, and of the program on the same sequences, by turns."""
    sequences = proteins(2000, 250)
    program = os.path.join(sysconfig.get_path("scripts"), "seqstream")
    with tempfile.TemporaryDirectory() as folder:
        fasta = os.path.join(folder, "in.fa")
        with open(fasta, "w") as file:
            file.writelines(f">p{i}\n{text}\n" for i, text in enumerate(sequences))
        ours, theirs = [], []
        for i in range(5):
            out = os.path.join(folder, f"out{i}")
            command = [program, "embed", fasta, "--model", MODEL, "--out", out, "--json", "-q"]
            summary = subprocess.check_output(command, text=True)
            theirs.append(json.loads(summary)["tokens_per_second"])
            ours.append(sum(len(s) + 2 for s in sequences) / timed(lambda: model.embed(sequences)))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"embed: {a:,.0f} tokens/s, the program: {b:,.0f} tokens/s: {a / b:.1%}, medians of 5")


if __name__ == "__main__":
    imports()
    import seqstream

    interrupt(seqstream.Embedder(MODEL))
    gil(seqstream.Embedder(MODEL, threads=1))
    throughput(seqstream.Embedder(MODEL))
