"""seqstream against PyTorch on the CPU: same machine, threads, sequences and weights, in one run.

    python cpu.py --seqstream ../../target/release/seqstream --weights-tools ../../target/release/weights-tools \\
        --models /tmp/models --proteins proteins.fasta --genomes genomes.fna --threads 2 --out cpu.json

For ESM-2 the peer is Hugging Face transformers (sdpa, sorted by length, token-budget batches, inference mode);
for DNABERT-S, `dnabert_torch.py`. Each token budget is tried on a part of the input and the peer keeps its
best. Then the two run alternately, and the medians are compared. Outside the peer's time stand loading the
model, tokenizing and padding; seqstream's runs from its first batch to its last, tokenizing and writing within.
Both outputs are compared in the same run.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

import inputs
from dnabert_torch import Dnabert

# name, as `weights-tools random --arch` knows it: default token limit, some 20 to 60 s a run on two cores
MODELS = {"8M": 180_000, "35M": 90_000, "150M": 30_000, "650M": 8_000, "dnabert-s": 30_000}


def log(text):
    print(text, file=sys.stderr, flush=True)


class Esm2Peer:
    """Hugging Face's EsmModel; the mean over residues."""

    def __init__(self, folder):
        from safetensors import safe_open
        from transformers import EsmModel, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.model = EsmModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False,
                                              dtype=torch.float32).eval()
        with safe_open(pathlib.Path(folder) / "model.safetensors", "pt") as file:
            stored = file.get_tensor("esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq")
        if not torch.equal(self.model.rotary_embeddings.inv_freq, stored.float()):
            raise SystemExit("this transformers computes inv_freq anew instead of loading it; use 5.23")
        self.pad = 1

    def tokenize(self, sequences):
        return [inputs.esm2_ids(sequence) for sequence in sequences]

    def pooled(self, ids, mask, lengths):
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        # without cls and eos: row 0, and the last one of each sequence
        residues = mask.clone()
        residues[:, 0] = 0
        residues[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 0
        weights = residues.float() / residues.sum(1, keepdim=True)
        return torch.bmm(weights[:, None], states)[:, 0]


class DnabertPeer:
    """The plain PyTorch DNABERT; the mean over all tokens."""

    def __init__(self, folder):
        from tokenizers import Tokenizer

        self.model = Dnabert(folder)
        self.tokenizer = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.pad = 3

    def tokenize(self, sequences):
        return [encoding.ids for encoding in self.tokenizer.encode_batch(sequences)]

    def pooled(self, ids, mask, lengths):
        states = self.model(ids, lengths)
        weights = mask.float() / mask.sum(1, keepdim=True)
        return torch.bmm(weights[:, None], states)[:, 0]


def batches(peer, encoded, budget, exact):
    """Padded batches of at most `budget` tokens, longest first; `exact` batches equal lengths only."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    groups = []
    for i in order:
        longest = len(encoded[groups[-1][0]]) if groups else 0
        full = not groups or (len(groups[-1]) + 1) * longest > budget
        if full or (exact and len(encoded[i]) != longest):
            groups.append([i])
        else:
            groups[-1].append(i)
    made = []
    for group in groups:
        lengths = [len(encoded[i]) for i in group]
        ids = torch.full((len(group), lengths[0]), peer.pad)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(group):
            ids[row, : lengths[row]] = torch.tensor(encoded[i])
            mask[row, : lengths[row]] = 1
        made.append((group, ids, mask, lengths))
    return made


@torch.inference_mode()
def run_peer(peer, made, count):
    """The pooled rows in input order, and the seconds from the first batch to the last."""
    rows = [None] * count
    start = time.perf_counter()
    for group, ids, mask, lengths in made:
        for i, row in zip(group, peer.pooled(ids, mask, lengths).numpy()):
            rows[i] = row
    return rows, time.perf_counter() - start


def best_setting(peer, encoded, budgets, exact_too):
    """Tries each token budget on a part of the input; the fastest."""
    step = max(1, len(encoded) // max(1, min(len(encoded), 64)))
    part = sorted(encoded, key=len)[step // 2 :: step]
    tokens = sum(map(len, part))
    warm = part[::4]
    run_peer(peer, batches(peer, warm, max(budgets), False), len(warm))
    tried = []
    for exact in (False, True) if exact_too else (False,):
        for budget in budgets:
            made = batches(peer, part, budget, exact)
            seconds = run_peer(peer, made, len(part))[1]
            if seconds < 5:  # short runs are noisy
                seconds = min(seconds, run_peer(peer, made, len(part))[1])
            tried.append({"budget": budget, "equal_lengths_only": exact, "tokens_per_second": tokens / seconds})
            log(f"    peer, budget {budget}{', equal lengths only' if exact else ''}: {tokens / seconds:,.0f} tokens/s")
    return max(tried, key=lambda t: t["tokens_per_second"]), tried


def run_seqstream(program, fasta, model, out, threads, tokens):
    """The pooled rows in input order, and seqstream's own summary, with `seconds` to compare by."""
    shutil.rmtree(out, ignore_errors=True)
    command = [str(program), "embed", str(fasta), "--model", str(model), "--out", str(out),
               "--threads", str(threads), "--pool", "mean", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    summary = summary_of(done.stdout)
    if summary.get("tokens", tokens) != tokens:
        raise SystemExit(f"seqstream counted {summary['tokens']} tokens, the peer {tokens}")
    if "seconds_running" in summary:
        seconds, clock = summary["seconds_running"], "first batch to last"
    else:
        seconds, clock = wall, "wall clock, model load included"
    return pooled_rows(out), {**summary, "seconds": seconds, "seconds_wall": wall, "clock": clock}


def summary_of(stdout):
    """The JSON object on standard output: the whole of it, or its last line."""
    for text in (stdout, (stdout.strip().splitlines() or [""])[-1]):
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def pooled_rows(out):
    """The rows of all shards, in order: out/shard-000000/layer_33.npy and so on."""
    files = sorted(out.glob("shard-*/layer_*.npy")) or sorted(out.glob("*.npy"))
    if not files:
        raise SystemExit(f"no .npy file under {out}")
    return np.concatenate([np.load(file) for file in files])


def compare(ours, theirs):
    """norm(ours - theirs) / norm(theirs), the worst sequence."""
    theirs = np.stack(theirs).astype(np.float64)
    if ours.shape != theirs.shape:
        raise SystemExit(f"seqstream gave rows {ours.shape}, the peer {theirs.shape}")
    return float((np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max())


def model_folder(name, options):
    folder = options.models / name
    if not (folder / "config.json").exists():
        if options.weights_tools is None:
            raise SystemExit(f"{folder} holds no model: give --weights-tools to make it")
        log(f"  making {folder}")
        subprocess.run([str(options.weights_tools), "random", "--arch", name, "--seed", "1", "--out", str(folder)],
                       check=True, stdout=sys.stderr)
    return folder


def measure(name, options, scratch):
    dna = name.startswith("dnabert")
    limit = options.limit_tokens or MODELS[name]
    source = options.genomes if dna else options.proteins
    draw = inputs.fragments if dna else inputs.proteins
    records = draw(source, limit, options.seed)
    fasta = scratch / f"{name}.fasta"
    inputs.write_fasta(fasta, records)
    folder = model_folder(name, options)

    peer = (DnabertPeer if dna else Esm2Peer)(folder)
    encoded = peer.tokenize([sequence for _, sequence in records])
    tokens = sum(map(len, encoded))
    log(f"{name}: {len(records)} sequences, {tokens:,} tokens, {options.threads} threads")
    setting, tried = best_setting(peer, encoded, options.budgets, exact_too=dna)
    made = batches(peer, encoded, setting["budget"], setting["equal_lengths_only"])

    runs = {"seqstream": [], "peer": []}
    summaries, worst = [], 0.0
    for turn in range(options.rounds):
        ours, summary = run_seqstream(options.seqstream, fasta, folder, scratch / "out", options.threads, tokens)
        time.sleep(1)
        theirs, seconds = run_peer(peer, made, len(encoded))
        time.sleep(1)
        runs["seqstream"].append(tokens / summary["seconds"])
        runs["peer"].append(tokens / seconds)
        summaries.append(summary)
        worst = max(worst, compare(ours, theirs))
        log(f"    round {turn + 1}: seqstream {runs['seqstream'][-1]:,.0f}, peer {runs['peer'][-1]:,.0f} tokens/s")
    if worst > 1e-4:
        raise SystemExit(f"{name}: the two give other embeddings: {worst:.1e}")
    median = {who: statistics.median(rates) for who, rates in runs.items()}
    return {
        "model": name, "sequences": len(records), "tokens": tokens,
        "seqstream_tokens_per_second": median["seqstream"], "peer_tokens_per_second": median["peer"],
        "ratio": median["seqstream"] / median["peer"], "difference": worst,
        "peer": "dnabert_torch.py" if dna else "transformers, sdpa",
        "peer_setting": setting, "peer_tried": tried, "runs": runs, "seqstream_summaries": summaries,
    }


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(results):
    lines = ["| model | sequences | tokens | seqstream tokens/s | PyTorch tokens/s | ratio | largest difference |",
             "|---|---|---|---|---|---|---|"]
    for r in results:
        lines.append(f"| {r['model']} | {r['sequences']} | {r['tokens']:,} | {r['seqstream_tokens_per_second']:,.0f} "
                     f"| {r['peer_tokens_per_second']:,.0f} | {r['ratio']:.2f} | {r['difference']:.1e} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = pathlib.Path
    parser.add_argument("--seqstream", type=path, required=True, help="the program")
    parser.add_argument("--weights-tools", type=path, help="makes the models that --models lacks")
    parser.add_argument("--models", type=path, required=True, help="folder of model folders: 8M, 35M, ...")
    parser.add_argument("--proteins", type=path, help="FASTA of proteins")
    parser.add_argument("--genomes", type=path, help="FASTA of genomes, cut into 500-base fragments")
    parser.add_argument("--only", default=",".join(MODELS), help="models, by comma (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, alternately (default: %(default)s)")
    parser.add_argument("--limit-tokens", type=int, help="about how many tokens a run (default: by model)")
    parser.add_argument("--budgets", default="1024,2048,4096,8192", type=lambda t: [int(b) for b in t.split(",")],
                        help="token budgets the peer tries (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the sub-sample")
    parser.add_argument("--out", type=path, default=path("cpu.json"), help="all figures, as JSON")
    options = parser.parse_args()
    names = options.only.split(",")
    for name in names:
        if name not in MODELS:
            parser.error(f"no model {name}; there are {', '.join(MODELS)}")
        needed = "genomes" if name.startswith("dnabert") else "proteins"
        if getattr(options, needed) is None:
            parser.error(f"{name} needs --{needed}")
    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)

    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            results.append(measure(name, options, path(scratch)))
            import transformers

            report = {
                "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads,
                            "system": platform.platform()},
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                             "python": platform.python_version()},
                "results": results,
            }
            options.out.write_text(json.dumps(report, indent=1) + "\n")  # after each: a long run may be cut short
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}, float32\n\n{table(results)}")


if __name__ == "__main__":
    main()
