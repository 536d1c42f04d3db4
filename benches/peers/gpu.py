"""seqstream against PyTorch on one GPU: same weights, sequences and card, in one run.

    python gpu.py --models /tmp/models --only 650M --peers hf,page,gemm --seqstream seqstream --out gpu.json

The peers: `hf`, Hugging Face transformers (sdpa, f16, sorted by length, token-budget batches; for DNABERT-S the plain
`dnabert_torch.py`); `page`, the best PyTorch that fits a page (packed, compiled); `gemm`, the model's matrix products
alone, which know no lengths and are measured on the first workload; `seqstream`, its own `bench`; `embed`, the whole
process from a FASTA file to shards on disk, a job long enough that its start-up weighs what it weighs in a real one. Each
PyTorch peer tries its settings where padding is as in what is measured, and keeps the best. All run by turns, backwards
every second round. Outside a PyTorch peer's time stand loading, tokenizing, batching and the copy of token ids to the
card. A peer that fails is reported, and the others go on.
"""

import argparse
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import torch

import inputs
from gpu_packed import now
from gpu_peers import DTYPES, PEERS
from gpu_weights import load_config

# Tokens a run, some 2 to 5 s of Hugging Face's on a Hopper card: all of hardware/run in some half an hour.
MODELS = {"8M": 6_000_000, "35M": 4_000_000, "150M": 2_000_000, "650M": 500_000, "3B": 250_000, "dnabert-s": 2_000_000}


def log(text):
    print(text, file=sys.stderr, flush=True)


def records_of(workload, limit, options):
    """(name, sequence) of a workload of about `limit` tokens, and where they come from."""
    if workload == "fragments":
        if not options.genomes:
            return inputs.random_fragments(limit, options.seed), "random bases, 500 a fragment"
        records = inputs.fragments(options.genomes, limit, options.seed)
        return inputs.repeated(records, 100 * len(records), limit), f"{options.genomes.name}, 500 bases a fragment"
    if workload != "ragged":
        length = int(workload)
        lengths = [length - 2] * max(1, limit // length)
        return inputs.random_proteins(lengths, options.seed), f"random proteins of {length} tokens"
    if not options.proteins:
        lengths = inputs.natural_lengths(limit, options.seed)
        return inputs.random_proteins(lengths, options.seed), "random proteins, lengths log-normal like Swiss-Prot's"
    records = inputs.proteins(options.proteins, limit, options.seed)
    tokens = sum(len(sequence) + 2 for _, sequence in records)
    return inputs.repeated(records, tokens, limit), options.proteins.name


def random_ids(length, limit, vocabulary, seed):
    """Sequences of a DNABERT's tokens at random, as `seqstream bench --lengths` has them: 1 first, 2 last."""
    generator, letters = random.Random(seed), range(5, vocabulary)
    return [[1, *generator.choices(letters, k=length - 2), 2] for _ in range(max(1, limit // length))]


def tokenized(records, folder, dna):
    if not dna:
        return [inputs.esm2_ids(sequence) for _, sequence in records]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.encode_batch([sequence for _, sequence in records])]


def timed(peer, made, device):
    start = now(device)
    rows = peer.run(made)
    return now(device) - start, rows


def tune(peer, axes, warm, whole, options, device, tried):
    """The peer's best setting on `whole`, warmed up on `warm`: one axis after the other, the rest held at the best so far.
    Where the best budget is at the edge of those tried, the next one beyond is tried too."""
    best, rate = None, 0.0

    def attempt(setting):
        nonlocal best, rate
        if any(setting == t["setting"] for t in tried):
            return
        try:
            peer.run(peer.prepare(warm, setting))  # memory, algorithms, compiling
            made = peer.prepare(whole, setting)
            # Twice: `warm` lacks shapes, for which memory is taken and code compiled. On ragged sequences that was 12 to 19 % of
            # Hugging Face's first pass, and more of one setting's than of another's.
            seconds = min(timed(peer, made, device)[0] for _ in range(2))
            found = getattr(peer, "tokens", sum(map(len, whole))) / seconds
        except Exception as error:
            log(f"    {setting}: {type(error).__name__}: {str(error)[:300]}")
            tried.append({"setting": setting, "error": str(error)[:300]})
            return
        log(f"    {setting}: {found:,.0f} tokens/s")
        tried.append({"setting": setting, "tokens_per_s": found})
        if found > rate:
            best, rate = setting, found

    for axis, values in axes.items():
        for value in values:
            attempt({**(best or {name: choices[0] for name, choices in axes.items()}), axis: value})
        while axis == "budget" and best and not options.budgets and (budget := beyond(best["budget"], tried, whole)):
            attempt({**best, axis: budget})
    if best is None:
        raise RuntimeError("no setting worked")
    return best


def beyond(best, tried, encoded):
    """The budget past the best one, where that is the least or the largest tried; none where the sequences would not fit it
    or not fill it."""
    budgets = [t["setting"]["budget"] for t in tried]
    if best == min(budgets) and best // 2 >= max(map(len, encoded)):
        return best // 2
    return 2 * best if best == max(budgets) and 2 * best <= sum(map(len, encoded)) else None


def narrowed(axes, best, tried):
    """What is worth trying on a model's further workloads, once the first has chosen: again the budgets, and the attentions
    that came near. All but a few of these are compiled by then."""
    fastest = lambda name: max(t.get("tokens_per_s", 0) for t in tried if t["setting"]["attention"] == name)
    near = [name for name in axes["attention"] if fastest(name) >= 0.8 * fastest(best["attention"])]
    return {axis: {"attention": near, "budget": values}.get(axis, [best[axis]]) for axis, values in axes.items()}


class Measured:
    """One model: its workloads, its peers, and the rows of results as they come."""

    def __init__(self, name, options, scratch, results, written):
        self.name, self.options, self.scratch, self.results, self.written = name, options, scratch, results, written
        self.dna, self.folder, self.device = name.startswith("dnabert"), options.models / name, torch.device(options.device)
        self.rows, self.peers, self.settings = {}, {}, {}
        share = 8 if options.dtype == "f32" else 1  # without tensor cores
        self.limit = limit = options.tokens or MODELS.get(name, 1_000_000) // share
        self.workloads, self.records = {}, {}
        for workload in options.workloads:
            if workload == "ragged" and self.dna:
                workload = "fragments"
            if self.dna and workload.isdigit():
                source = f"random tokens, {workload} a sequence"
                encoded = random_ids(int(workload), limit, load_config(self.folder)["vocab_size"], options.seed)
            else:
                records, source = records_of(workload, limit, options)
                encoded = tokenized(records, self.folder, self.dna)
            if not workload.isdigit():
                self.records[workload] = records
                inputs.write_fasta(scratch / f"{workload}.fasta", records)
            self.workloads[workload] = (encoded, sum(map(len, encoded)), source)
            log(f"  {workload}: {len(encoded):,} sequences, {self.workloads[workload][1]:,} tokens; {source}")

    def row(self, peer, workload):
        if (peer, workload) not in self.rows:
            tokens, source = self.workloads[workload][1:]
            self.rows[peer, workload] = {"model": self.name, "dtype": self.options.dtype, "workload": workload,
                                         "peer": peer, "tokens": tokens, "seconds": [], "source": source}
            self.results.append(self.rows[peer, workload])
        return self.rows[peer, workload]

    def failed(self, peer, workload, error):
        log(f"  {peer}, {workload}: {type(error).__name__}: {str(error)[:500]}")
        self.row(peer, workload)["error"] = f"{type(error).__name__}: {str(error)[:500]}"
        self.written()

    def load(self):
        for peer in self.options.peers:
            if peer not in PEERS:
                continue
            try:
                log(f"  loading {peer}")
                self.peers[peer] = PEERS[peer](self.folder, self.device, DTYPES[self.options.dtype], self.dna, self.options)
            except Exception as error:
                for workload in self.workloads:
                    self.failed(peer, workload, error)

    def tune(self):
        first = next(iter(self.workloads))
        for workload, (encoded, tokens, _) in self.workloads.items():
            ordered = sorted(encoded, key=len)
            # All of it: how much is padding depends on how near the lengths are to each other, and on how full the last batch is.
            whole, step = ordered, max(1, tokens // self.options.warm_tokens)
            warm = ordered[step // 2 :: step] or ordered
            rows = {}
            for peer, made_by in self.peers_of(workload):
                log(f"  {self.name} {workload}: {peer} tries its settings")
                row = self.row(peer, workload)
                row["tried"] = []
                try:
                    axes, earlier = made_by.axes(whole), self.settings.get((peer, first))
                    if peer == "page" and earlier:
                        axes = narrowed(axes, earlier, self.row(peer, first)["tried"])
                    setting = tune(made_by, axes, warm, whole, self.options, self.device, row["tried"])
                    self.settings[peer, workload] = setting
                    row["setting"] = setting
                    if peer != "gemm":
                        made = made_by.prepare(ordered[:: -(-len(ordered) // 64)], setting)
                        order = torch.tensor(made_by.members(made), device=self.device)
                        rows[peer] = torch.cat(made_by.run(made))[order.argsort()]
                except Exception as error:
                    self.failed(peer, workload, error)
                self.written()
            if len(rows) == 2:
                difference = ((rows["page"] - rows["hf"]).norm(dim=1) / rows["hf"].norm(dim=1)).max().item()
                self.row("page", workload)["difference_from_hf"] = difference
                log(f"  {workload}: page and hf differ by {difference:.1e} at most")
                if not difference < 2e-2:
                    self.failed("page", workload, ValueError(f"differs from hf by {difference:.1e}"))

    def peers_of(self, workload):
        """The products alone know no lengths: they are measured once."""
        return [(peer, made_by) for peer, made_by in self.peers.items()
                if peer != "gemm" or workload == next(iter(self.workloads))]

    def round(self, number):
        """All once: the programs, then PyTorch's; every second round the other way round. So seqstream is measured first,
        on an empty card, and a run that is cut short has its numbers."""
        for part in (self.programs, self.pytorch)[:: 1 if number % 2 == 0 else -1]:
            part(number)

    def programs(self, _):
        if "seqstream" in self.options.peers:
            self.guarded(self.bench, "seqstream", next(iter(self.workloads)))
        for workload in self.workloads:
            if "embed" in self.options.peers and not workload.isdigit():
                self.guarded(self.embed, "embed", workload)

    def pytorch(self, number):
        if number == 0:
            self.load()
            self.tune()
        for peer in list(self.peers)[:: 1 if number % 2 == 0 else -1]:
            for workload in self.workloads:
                if peer in dict(self.peers_of(workload)) and "error" not in self.row(peer, workload):
                    self.guarded(self.torch, peer, workload)

    def guarded(self, measure, peer, workload):
        try:
            measure(peer, workload)
        except Exception as error:
            self.failed(peer, workload, error)
        self.written()

    def torch(self, peer, workload):
        made_by, row = self.peers[peer], self.row(peer, workload)
        made = made_by.prepare(self.workloads[workload][0], self.settings[peer, workload])
        if not row["seconds"]:  # memory, algorithms, compiling: none of it is in the time of any round
            made_by.run(made)
        self.count(row, timed(made_by, made, self.device)[0], getattr(made_by, "tokens", row["tokens"]))

    def count(self, row, seconds, tokens):
        row["tokens"] = tokens
        row["seconds"].append(seconds)
        row["tokens_per_s"] = tokens / statistics.median(row["seconds"])
        log(f"  {row['model']} {row['workload']} {row['peer']}: {tokens / seconds:,.0f} tokens/s")

    def program(self, *arguments):
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the program sizes its batches by the memory it finds free
        command = [str(self.options.seqstream), *map(str, arguments), "--device", self.device.type,
                   "--dtype", self.options.dtype, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=self.options.program_timeout)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-400:]}")
        return json.loads(done.stdout)

    def bench(self, peer, first):
        """`seqstream bench`: all workloads in one go; its report is kept whole beside the rates."""
        arguments = ["bench", "--model", self.folder, "--rounds", self.options.program_rounds]
        names = {}  # as the report has them
        for workload in self.workloads:
            if workload.isdigit():
                arguments += ["--lengths", workload]
                names[f"length {workload}"] = workload
            else:
                arguments += ["--fasta", self.scratch / f"{workload}.fasta"]
                names[f"{workload}.fasta"] = workload
        if self.device.type == "cuda":
            # A little less than a workload's file has: with more it would be read twice.
            arguments += ["--breakdown", "--tokens", self.limit * 9 // 10] + (["--cold"] if self.options.cold else [])
        else:
            arguments += ["--tokens", self.options.tokens or 100_000]
        report = self.program(*arguments)
        report["config"] = load_config(self.folder)
        self.row(peer, first).setdefault("reports", []).append(report)
        for entry in report["workloads"]:
            lengths = [len(ids) for ids in self.workloads[names[entry["workload"]]][0]]
            # How many keys a query meets, on average: what attention's arithmetic grows with.
            entry["keys_per_query"] = sum(n * n for n in lengths) / sum(lengths)
            rates = {"seqstream": entry["tokens_per_second"], "seqstream gemm": entry.get("products_alone_tokens_per_second")}
            for name, rate in rates.items():
                if rate:
                    row = self.row(name, names[entry["workload"]])
                    row.setdefault("rates", []).append(rate)
                    row["tokens_per_s"] = statistics.median(row["rates"])
                    log(f"  {self.name} {row['workload']} {name}: {rate:,.0f} tokens/s")

    def embed(self, peer, workload):
        """From the FASTA file to shards on disk. The rate is by the wall's clock, from the start of the process to its end;
        `seconds` are the program's own, which begin once it has read the file through and the card is set up."""
        out, row, file = self.scratch / "embedded", self.row(peer, workload), self.scratch / f"{workload}-embed.fasta"
        if not file.exists():
            rate = self.rows.get(("seqstream", workload), {}).get("tokens_per_s", 0)
            row["repeated"] = max(1, round(self.options.embed_seconds * rate / self.workloads[workload][1]))
            row["tokens"] *= row["repeated"]
            inputs.write_fasta(file, inputs.repeated(self.records[workload], 1, row["repeated"]))
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        summary = self.program("embed", file, "--model", self.folder, "--out", out)
        wall = time.perf_counter() - start
        summary.pop("out", None)  # a folder of this machine's
        row.setdefault("reports", []).append(summary)
        if summary["tokens"] != row["tokens"]:
            raise RuntimeError(f"seqstream counted {summary['tokens']} tokens, the tokenizer {row['tokens']}")
        row["seconds"].append(summary["seconds"])
        row.setdefault("wall_seconds", []).append(wall)
        row["tokens_per_s"] = row["tokens"] / statistics.median(row["wall_seconds"])
        log(f"  {self.name} {workload} {peer}: {row['tokens'] / wall:,.0f} tokens/s by the wall's clock, {wall:.2f} s; "
            f"by the program's {row['tokens'] / summary['seconds']:,.0f}, {summary['seconds']:.2f} s")


def table(results):
    """A row a model and workload, a column a peer."""
    peers = list(dict.fromkeys(r["peer"] for r in results))
    lines = ["| model | dtype | workload | " + " | ".join(f"{p}, tokens/s" for p in peers) + " |",
             "|---" * (3 + len(peers)) + "|"]
    cells = {(r["model"], r["dtype"], r["workload"], r["peer"]): r for r in results}
    for key in dict.fromkeys(key[:3] for key in cells):
        shown = []
        for peer in peers:
            r = cells.get((*key, peer), {})
            shown.append("failed" if "error" in r else f"{r['tokens_per_s']:,.0f}" if "tokens_per_s" in r else "")
        lines.append("| " + " | ".join([*key, *shown]) + " |")
    return "\n".join(lines)


def machine(device):
    import transformers

    found = {"torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.version.cuda}
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"device": properties.name, "multiprocessors": properties.multi_processor_count,
                  "memory": properties.total_memory, "cudnn": torch.backends.cudnn.version(), **ceilings(device)}
    return found


def ceilings(device):
    """What this card does at best, measured: bytes a second of a copy, read and written; FLOP/s of a large product of
    random numbers in f16, and in f32 without TF32."""
    a, b = torch.randn(2, 8192, 8192, device=device)
    c, d = a.half(), b.half()
    source = torch.empty(1 << 31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def best(run):
        times = []
        for _ in range(13):
            start = now(device)
            run()
            times.append(now(device) - start)
        return statistics.median(times[3:])

    return {"copy_bytes_per_s": 2 * len(source) / best(lambda: target.copy_(source)),
            "product_flop_per_s": 2 * 8192**3 / best(lambda: c @ d),
            "product_f32_flop_per_s": 2 * 8192**3 / best(lambda: a @ b)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path, comma = pathlib.Path, lambda text: text.split(",")
    parser.add_argument("--models", type=path, required=True, help="folder of model folders: 650M, 3B, dnabert-s, ...")
    parser.add_argument("--only", type=comma, default=["650M", "3B", "dnabert-s"], help="models, by comma")
    parser.add_argument("--peers", type=comma, default=["seqstream", "hf", "page", "gemm", "embed"])
    parser.add_argument("--workloads", type=comma, default=["ragged", "350", "1022"],
                        help="lengths in tokens, <cls> and <eos> included, or `ragged`: a DNABERT has fragments of 500 bases "
                        "for that")
    parser.add_argument("--seqstream", type=path, help="the program")
    parser.add_argument("--proteins", type=path, help="FASTA of proteins (default: random ones)")
    parser.add_argument("--genomes", type=path, help="FASTA of genomes (default: random bases)")
    parser.add_argument("--tokens", type=int, help="tokens a run (default: by model)")
    parser.add_argument("--warm-tokens", type=int, default=16_896,
                        help="tokens of the part that a setting is warmed up on before it is tried on the whole input")
    parser.add_argument("--budgets", type=lambda text: [int(b) for b in text.split(",")],
                        help="token budgets to try (default: by peer, and on where the best is at the edge)")
    parser.add_argument("--modes", type=comma, default=["default"],
                        help="torch.compile's modes that the page tries: default,max-autotune-no-cudagraphs")
    parser.add_argument("--embed-seconds", type=float, default=10.5,
                        help="about how long `embed` computes: by the rate of `seqstream`, the workload's records over and over")
    parser.add_argument("--cold", action="store_true", help="have `seqstream bench` measure cold starts too")
    parser.add_argument("--rounds", type=int, default=2, help="of every peer: a program's run, a pass of PyTorch's")
    parser.add_argument("--program-rounds", type=int, default=3, help="rounds inside a run of `seqstream bench`")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="f16")
    parser.add_argument("--program-timeout", type=float, default=300, help="seconds for one run of the program")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=path, default=path("gpu.json"))
    options = parser.parse_args()
    options.log = log
    for peer in options.peers:
        if peer not in [*PEERS, "seqstream", "embed"]:
            parser.error(f"no peer {peer}; there are {', '.join([*PEERS, 'seqstream', 'embed'])}")
    if options.seqstream is None:
        options.peers = [peer for peer in options.peers if peer in PEERS]
    torch.set_float32_matmul_precision("highest")

    report = {"machine": machine(options.device), "results": []}
    written = lambda: options.out.write_text(json.dumps(report, indent=1) + "\n")  # after each: a run may be cut short
    for name in options.only:
        log(f"{name}, {options.dtype}")
        with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
            try:
                measured = Measured(name, options, path(scratch), report["results"], written)
                for number in range(options.rounds):
                    measured.round(number)
            except Exception as error:
                log(f"{name}: {type(error).__name__}: {error}")
                report["results"].append({"model": name, "dtype": options.dtype, "workload": "", "peer": "all",
                                          "error": str(error)})
            measured = None
        written()
    print(table(report["results"]))
    return 1 if any("error" in r for r in report["results"]) else 0


if __name__ == "__main__":
    sys.exit(main())
