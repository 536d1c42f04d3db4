"""Makes the tables in tests/golden/virnucpro/: made-up scores of made-up contigs, and what the two programs make of them.

It is an implementation of its own, written from a description of what the programs do (Li-Jing-1997/VirNucPro at
0f93f27, broadinstitute/virnucpro-broad at a8d3e4b, `virnucpro_contigs` of viral-ngs), and shares no code with
src/virnucpro. The numbers are written by NumPy and by Python themselves.

    pip install numpy==2.4.6
    python tests/golden/virnucpro/make_tables.py tests/golden/virnucpro

`numbers.tsv`: the bits of a float32, its text in the original, its text in the fork. `fragments.tsv`: contig, chunk,
frame, start and end of the chunk, bits of both scores. `facts.tsv`: contig, length, chunks, fragments. `original/` and
`broad/` hold the tables of these fragments, with chunks of 30 letters.
"""

import math
import random
import re
import sys
from pathlib import Path

import numpy as np

CHUNK = 30
FRAMES = ["F1", "F2", "F3", "R1", "R2", "R3"]


def chunks(length):
    n = math.ceil(length / CHUNK)
    if n == 0:
        return []
    q, r = divmod(n * CHUNK - length, n)
    starts = [k * (CHUNK - q) - min(k, q + r) for k in range(n)]
    return [(s, min(s + CHUNK, length)) for s in starts]


def bits(value):
    return f"{int(np.float32(value).view(np.uint32)):08x}"


def numbers():
    generator = np.random.default_rng(21)
    uniform = generator.random(150, dtype=np.float32)
    small = (10.0 ** (-8 * generator.random(150))).astype(np.float32)
    special = [0, 1, 1e-4, 9.9999e-5, 1.0001e-4, 0.5, 0.1, 1e-45, 1e-38, 0.30000001, 1e-5, 2.0**-24, 2.0**-20, 0.25]
    values = list(uniform) + list(small) + [np.float32(v) for v in special]
    return "".join(f"{bits(v)}\t{str(v)}\t{float(v)!r}\n" for v in values)


def verdict(pairs):
    """The columns of a contig, from the largest scores of its chunks."""
    deltas = [b - a for a, b in pairs]
    weights = [math.sqrt(abs(d)) for d in deltas]
    total = sum(weights)
    delta = sum(d * w for d, w in zip(deltas, weights)) / total if total > 0 else 0.0
    viral = sum(b > 0.8 and a < 0.3 for a, b in pairs)
    other = sum(a > 0.8 and b < 0.3 for a, b in pairs)
    both = sum(a > 0.7 and b > 0.7 for a, b in pairs)
    rest = len(pairs) - both
    viral_share = viral / rest if rest else 0.0
    other_share = other / rest if rest else 0.0
    if abs(delta) > 0.3:
        call = "Viral" if delta > 0 else "Non-viral"
        count, share = (viral, viral_share) if delta > 0 else (other, other_share)
        tier = "low_confidence"
        if count >= 1 and share >= 0.1:
            tier = "high_confidence" if abs(delta) > 0.6 else "moderate_confidence"
    else:
        call, tier = "Ambiguous", "review"
    if len(pairs) < 5:
        tier = "review" if tier in ("low_confidence", "review") else "low_confidence"
    columns = [call, tier, round(delta, 3), len(pairs), viral, other, both, round(viral_share, 3), round(other_share, 3)]
    return "\t".join(map(str, columns))


def natural(name):
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def main():
    out = Path(sys.argv[1])
    rng = random.Random(21)
    (out / "numbers.tsv").write_text(numbers())

    names = ["", "NODE_10_length_5", "NODE_9_length_7", "node_9_x", "c2", "c10", "c1_chunk_2", "c1", "c1_chunk_1", "k141_7"]
    names += [f"k141_{n}" for n in rng.sample(range(1000), 60)]
    lengths = [61, 0, 2, 3, 89, 301, 45, 30, 60, 31] + [rng.randrange(1, 400) for _ in range(60)]
    fragments, facts = [], []
    for name, length in zip(names, lengths):
        count = 0
        # Contigs of either kind, and mixed ones.
        lean, density = rng.choice([0.05, 0.25, 0.5, 0.7, 0.95]), rng.choice([0, 0.1, 0.3, 0.6])
        for k, (start, end) in enumerate(chunks(length), 1):
            for frame in FRAMES:
                if rng.random() < density and length >= 3:
                    score = np.float32(min(1, max(0, rng.gauss(lean, 0.25)))) if rng.random() < 0.9 else np.float32(0.5)
                    other = np.float32(1) - score
                    fragments.append((name, k, frame, start, end, other, score))
                    count += 1
        facts.append((name, length, len(chunks(length)), count))
    assert sum(count == 0 and length > 2 for _, length, _, count in facts) > 1
    (out / "fragments.tsv").write_text(
        "".join(f"{n}\t{k}\t{f}\t{s}\t{e}\t{bits(a)}\t{bits(b)}\n" for n, k, f, s, e, a, b in fragments)
    )
    (out / "facts.tsv").write_text("".join("\t".join(map(str, fact)) + "\n" for fact in facts))

    best = {}
    for name, k, _, start, end, a, b in fragments:
        old = best.get((name, k), (0, 0, start, end))
        best[name, k] = (max(a, old[0]), max(b, old[1]), start, end)
    for style, text in [("original", str), ("broad", lambda v: repr(float(v)))]:
        folder = out / style
        lines = ["Sequence_ID\tPrediction\tscore1\tscore2"]
        for name, k, frame, _, _, a, b in fragments:
            prediction = "virus" if b > a else "others"
            lines.append(f"{name}_chunk_{k}{frame}\t{prediction}\t{text(a)}\t{text(b)}")
        (folder / "prediction_results.txt").write_text("\n".join(lines) + "\n")

        rows = [(f"{name}_chunk_{k}", bool(b >= a), text(a), text(b)) for (name, k), (a, b, _, _) in best.items()]
        if style == "original":
            lines = ["Modified_ID\tIs_Virus"] + [f"{i}\t{v}" for i, v, _, _ in sorted(rows)]
        else:
            lines = ["Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1"] + ["\t".join(map(str, row)) for row in rows]
        (folder / "prediction_results_highestscore.csv").write_text("\n".join(lines) + "\n")

        pairs = {}
        for (name, _), (a, b, _, _) in best.items():
            pairs.setdefault(name, []).append((float(a), float(b)))
        lines = [
            "ID\tcall\ttier\tweighted_delta\tn_chunks\tn_confident_viral\tn_confident_nonviral\tn_ambiguous\t"
            "viral_proportion\tnonviral_proportion"
        ] + [f"{name}\t{verdict(pairs[name])}" for name in sorted(pairs, key=natural)]
        (folder / "contigs.tsv").write_text("\n".join(lines) + "\n")

        # Base by base: the largest score of the chunks that cover it.
        lines = [
            'track type=bedGraph name="virus score" description="VirNucPro: largest virus score of the chunks that '
            'cover a base" viewLimits=0:1 autoScale=off'
        ]
        for name, length, _, _ in facts:
            base = [None] * length
            for (own, _), (_, b, start, end) in best.items():
                for at in range(start, end) if own == name else ():
                    base[at] = b if base[at] is None else max(base[at], b)
            at = 0
            while at < length:
                end = at
                while end < length and base[end] == base[at]:
                    end += 1
                if base[at] is not None:
                    lines.append(f"{name or '.'}\t{at}\t{end}\t{text(base[at])}")
                at = end
        (folder / "virus.bedgraph").write_text("\n".join(lines) + "\n")

        lines = ["contig\tlength\treason"]
        for name, length, _, count in facts:
            if count == 0:
                reason = "empty" if length == 0 else "shorter than a codon" if length < 3 else "no open frame"
                lines.append(f"{name}\t{length}\t{reason}")
        (folder / "no_fragment.tsv").write_text("\n".join(lines) + "\n")


main()
