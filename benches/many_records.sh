#!/bin/sh
# Peak memory on many records: a small random model, 10 thousand and then RECORDS (default one
# million) short proteins. The two peaks must be about the same.
#
#   benches/many_records.sh [RECORDS] [SCRATCH]
set -eu
cd "$(dirname "$0")/.."
records=${1:-1000000}
scratch=${2:-$(mktemp -d)}
cargo build --release -q --workspace
target/release/weights-tools random --kind esm2 --layers 1 --hidden 8 --heads 2 --out "$scratch/model"
proteins() {
    awk -v n="$1" 'BEGIN {
        srand(1); letters = "ACDEFGHIKLMNPQRSTVWY"
        for (i = 0; i < n; i++) {
            s = ""
            long = 8 + int(rand() * 17)
            for (j = 0; j < long; j++) s = s substr(letters, 1 + int(rand() * 20), 1)
            print ">r" i "\n" s
        }
    }'
}
for n in 10000 "$records"; do
    proteins "$n" > "$scratch/$n.fa"
    rm -rf "$scratch/out"
    target/release/seqstream embed "$scratch/$n.fa" --model "$scratch/model" --out "$scratch/out" --json -q |
        sed 's/.*"sequences":\([0-9]*\).*"seconds":\([0-9.]*\).*"peak_memory_bytes":\([0-9]*\).*/\1 sequences, \2 s, VmHWM \3 bytes/'
    # Every record, once, in its place.
    cat "$scratch"/out/shard-*/ids.txt | awk '$0 != "r" NR - 1 { print "row " NR " is " $0; exit 1 }'
done
rm -rf "$scratch"
