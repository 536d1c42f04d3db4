"""Compares seqstream's token ids with Hugging Face's, on any DNABERT-style tokenizer.json and any FASTA file.

    pip install tokenizers==0.23.3
    weights-tools random --arch dnabert-s --out DNABERT
    python weights-tools/reference/check_tokenizer.py TOKENIZER_JSON FASTA --model DNABERT [--seqstream BIN]

Runs `seqstream tokenize --model DIR --clean off FASTA`, DIR being a temporary folder that links to the files of
--model, any DNABERT, with TOKENIZER_JSON as its tokenizer. Exits 1 at the first sequence whose ids differ.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer


def records(path):
    """Ids and texts of a plain FASTA file, as `--clean off` reads it: lines joined, nothing else changed."""
    name, lines = None, []
    for line in Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = line.rstrip(b"\r")
        if line.startswith(b">"):
            if name is not None:
                yield name, b"".join(lines).decode()
            name, lines = (line[1:].split() or [b""])[0].decode(), []
        elif not line.startswith(b";"):
            lines.append(line)
    if name is not None:
        yield name, b"".join(lines).decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer_json", type=Path)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--seqstream", default="seqstream")
    parser.add_argument("--model", type=Path, required=True)
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(args.tokenizer_json))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        for file in args.model.iterdir():
            if file.name != "tokenizer.json":
                (model / file.name).symlink_to(file.resolve())
        shutil.copyfile(args.tokenizer_json, model / "tokenizer.json")
        command = [args.seqstream, "tokenize", "--model", str(model), "--clean", "off", str(args.fasta)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    ours = [json.loads(line) for line in output.splitlines()]
    theirs = list(records(args.fasta))
    if len(ours) != len(theirs):
        sys.exit(f"{len(ours)} records from seqstream, {len(theirs)} in {args.fasta}")
    tokens = 0
    for number, (mine, (name, text)) in enumerate(zip(ours, theirs), 1):
        want = tokenizer.encode(text).ids
        if name and mine["id"] != name:
            sys.exit(f"record {number}: id {mine['id']!r}, not {name!r}")
        if mine["ids"] != want:
            at = next((i for i, (a, b) in enumerate(zip(mine["ids"], want)) if a != b), min(len(mine["ids"]), len(want)))
            sys.exit(f"record {number} ({name}): token {at} differs: {mine['ids'][at:at + 5]} not {want[at:at + 5]}")
        tokens += len(want)
    print(f"identical: {len(theirs)} records, {tokens} tokens")


if __name__ == "__main__":
    main()
