"""The sequences of a benchmark: drawn once from a FASTA file, written to one FASTA that both programs read."""

import random


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
