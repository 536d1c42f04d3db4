"""Makes tests/golden/fragments/fragments.tsv: the fragments of VirNucPro, by an implementation of its own.

It was written from a description of what the original program (Li-Jing-1997/VirNucPro, commit 0f93f27) does, and shares
no code with src/sequence/fragments.rs. It needs Python alone:

    python3 tests/golden/fragments/make_fragments.py >tests/golden/fragments/fragments.tsv
    python3 tests/golden/fragments/make_fragments.py --fasta contigs.fna --chunk 500     # counts and a checksum

Contig number i of a kind has letters from a linear congruential generator that is seeded with i, which the test repeats.
Each line of the file is: kind, chunk length, contig length, number of fragments, CRC-32 of their text. The text of a
fragment is one line: chunk, frame, chunk start, chunk end, nucleotide start, nucleotide end, dropped codons,
nucleotides, protein, separated by tabs.
"""

import argparse
import math
import sys
import zlib

# The codons of each amino acid of NCBI's table 1; those left over are stops.
CODONS = """
A GCT GCC GCA GCG
R CGT CGC CGA CGG AGA AGG
N AAT AAC
D GAT GAC
C TGT TGC
Q CAA CAG
E GAA GAG
G GGT GGC GGA GGG
H CAT CAC
I ATT ATC ATA
L TTA TTG CTT CTC CTA CTG
K AAA AAG
M ATG
F TTT TTC
P CCT CCC CCA CCG
S TCT TCC TCA TCG AGT AGC
T ACT ACC ACA ACG
W TGG
Y TAT TAC
V GTT GTC GTA GTG
* TAA TAG TGA
"""
AMINO_ACID = {
    codon: words[0] for words in (line.split() for line in CODONS.split("\n") if line) for codon in words[1:]
}
assert len(AMINO_ACID) == 64
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def chunks(length, c):
    """The pairs (start, end) of the chunks."""
    n = math.ceil(length / c)
    for k in range(n):
        gap, rest = divmod(n * c - length, n)
        start = k * (c - gap) - min(k, gap + rest)
        yield start, min(start + c, length)


def fragments(contig, c):
    """One tuple per kept frame, in the order of the original."""
    for number, (start, end) in enumerate(chunks(len(contig), c), 1):
        forward = contig[start:end].upper()
        backward = forward.translate(COMPLEMENT)[::-1]
        for direction, strand in ("F", forward), ("R", backward):
            for f in range(3):
                codons = [strand[i : i + 3] for i in range(f, len(strand) - 2, 3)]
                translated = [AMINO_ACID.get(codon, "") for codon in codons]
                protein = "".join(translated)
                if protein == "" or "*" in protein:
                    continue
                nucleotides = strand[f:][: 3 * len(protein) + 1]
                if direction == "F":
                    first = start + f
                else:
                    first = end - f - len(nucleotides)
                yield (
                    number,
                    direction + str(f + 1),
                    start,
                    end,
                    first,
                    first + len(nucleotides),
                    translated.count(""),
                    nucleotides,
                    protein,
                )


def letters(kind, seed, length):
    """The letters of a made-up contig. Stops are rare, or nearly no frame of 500 letters would be kept."""
    alphabet = {
        "plain": "ACGTGCCGGCACGGCC",
        "dirty": "ACGTGCCGGCACGGCCacgtgccggcNRYUnu-",
        "open": "CGCGCCGGCCGGCCGC",
    }[kind]
    state = seed
    out = []
    for _ in range(length):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append(alphabet[(state >> 33) % len(alphabet)])
    return "".join(out)


def checksum(found):
    text = "".join("\t".join(map(str, one)) + "\n" for one in found)
    return zlib.crc32(text.encode())


def cases():
    for length in range(0, 1601):
        yield "plain", 500, length
    for length in list(range(0, 60)) + list(range(60, 1601, 7)):
        yield "dirty", 300, length
        yield "open", 500, length
    for c in 1, 2, 3, 4, 5, 6, 7, 50, 299, 1000:
        for length in list(range(0, 40)) + [c * m + d for m in (2, 3, 10) for d in (-1, 0, 1)]:
            yield "dirty", c, max(length, 0)


def read_fasta(path):
    name, parts = None, []
    for line in open(path):
        if line.startswith(">"):
            if name is not None:
                yield name, "".join(parts)
            name, parts = (line[1:].split() or [""])[0], []
        else:
            parts.append("".join(line.split()))
    if name is not None:
        yield name, "".join(parts)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fasta")
    parser.add_argument("--chunk", type=int, default=500)
    args = parser.parse_args()
    if args.fasta:
        count, crc, contigs = 0, 0, 0
        for name, contig in read_fasta(args.fasta):
            contigs += 1
            for one in fragments(contig, args.chunk):
                count += 1
                crc = zlib.crc32((name + "\t" + "\t".join(map(str, one)) + "\n").encode(), crc)
        print(f"{contigs} contigs, {count} fragments, crc32 {crc:08x}")
        return
    for kind, c, length in cases():
        found = list(fragments(letters(kind, length, length), c))
        sys.stdout.write(f"{kind}\t{c}\t{length}\t{len(found)}\t{checksum(found):08x}\n")


main()
