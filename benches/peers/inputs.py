"""The sequences of a benchmark: drawn once from a FASTA file or at random, written to one FASTA that all programs read."""

import math
import random

ESM2_IDS = {letter: i for i, letter in enumerate("LAGVSERTIDPKQNFYMHWCXBUZO.-", start=4)}
# Mean and median length of Swiss-Prot, rounded; they decide the two parameters of a log-normal.
MEAN_LENGTH, MEDIAN_LENGTH = 360, 295


def esm2_ids(sequence):
    """Token ids with <cls> and <eos>, as Hugging Face gives them for letters that ESM-2 knows."""
    return [0, *(ESM2_IDS[letter] for letter in sequence), 2]


def read_fasta(path):
    """(id, sequence) of each record, upper-cased, one trailing `*` dropped."""
    records, name, parts = [], None, []
    with open(path) as lines:
        for line in lines:
            if line.startswith(">"):
                if name is not None:
                    records.append((name, "".join(parts).upper().removesuffix("*")))
                name, parts = (line[1:].split() or [""])[0], []
            else:
                parts.append(line.strip())
    if name is not None:
        records.append((name, "".join(parts).upper().removesuffix("*")))
    return [(name, sequence) for name, sequence in records if sequence]


def proteins(path, limit, seed):
    """Proteins of standard letters, drawn with `seed` until `limit` tokens, in the file's order."""
    letters = set("LAGVSERTIDPKQNFYMHWCXBUZO")
    records = [record for record in read_fasta(path) if set(record[1]) <= letters]
    return drawn(records, [len(sequence) + 2 for _, sequence in records], limit, seed)


def fragments(path, limit, seed, size=500):
    """`size`-base fragments, end to end along each genome, drawn with `seed` until about `limit` tokens."""
    records = []
    for name, sequence in read_fasta(path):
        for start in range(0, len(sequence) - size + 1, size):
            piece = sequence[start : start + size]
            if set(piece) <= set("ACGT"):
                records.append((f"{name}_{start}", piece))
    return drawn(records, [size // 5] * len(records), limit, seed)


def drawn(records, tokens, limit, seed):
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    chosen, total = [], 0
    for i in order:
        if total >= limit:
            break
        chosen.append(i)
        total += tokens[i]
    if not chosen:
        raise SystemExit("no usable sequence in the input")
    return [records[i] for i in sorted(chosen)]


def write_fasta(path, records):
    with open(path, "w") as out:
        for name, sequence in records:
            out.write(f">{name}\n{sequence}\n")


def repeated(records, tokens, limit):
    """The records over and over, under new names, until `limit` tokens: a small file as a long input. No program
    here remembers a sequence, so that one met twice costs twice."""
    rounds = max(1, round(limit / tokens))
    return [(f"{name}_{i}", sequence) for i in range(rounds) for name, sequence in records]


def natural_lengths(limit, seed):
    """Ragged lengths where no file of proteins is given: log-normal, with mean and median of Swiss-Prot."""
    spread = math.sqrt(2 * math.log(MEAN_LENGTH / MEDIAN_LENGTH))
    generator, lengths, total = random.Random(seed), [], 0
    while total < limit:
        lengths.append(min(5000, max(20, round(generator.lognormvariate(math.log(MEDIAN_LENGTH), spread)))))
        total += lengths[-1] + 2
    return lengths


def random_proteins(lengths, seed):
    """Proteins of these lengths, letters as frequent as in Swiss-Prot, in per cent."""
    often = dict(L=9.7, A=8.3, G=7.1, V=6.9, E=6.7, S=6.6, I=5.9, K=5.8, R=5.5, D=5.5, T=5.4, P=4.7, N=4.1, Q=3.9,
                 F=3.9, Y=2.9, M=2.4, H=2.3, C=1.4, W=1.1)
    generator = random.Random(seed)
    return [(f"random_{i}", "".join(generator.choices(list(often), list(often.values()), k=length)))
            for i, length in enumerate(lengths)]


def random_fragments(limit, seed, size=500):
    """Fragments of random bases; some 5 bases a token."""
    generator = random.Random(seed)
    return [(f"random_{i}", "".join(generator.choices("ACGT", k=size))) for i in range(max(1, limit * 5 // size))]
