"""Makes tests/golden/tokens/: token ids as Hugging Face gives them, on clean and dirty text.

    pip install tokenizers==0.23.3 transformers==5.23.0
    python weights-tools/reference/make_token_golden.py

esm.json            texts and ids of EsmTokenizer
bpe*_tokenizer.json small tokenizers of DNABERT-S's format, trained here on random DNA
bpe*.json           texts and their ids, without truncation and padding
"""

import json
import random
import tempfile
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers, AddedToken
from transformers import EsmTokenizer

PINNED = {"tokenizers": "0.23.3", "transformers": "5.23.0"}
OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokens"
ESM_VOCABULARY = (
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
)
SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
# Every character that Python or Unicode calls white space, and some that look like it and are not.
SPACES = [
    "\t", "\n", "\x0b", "\x0c", "\r", "\x1c", "\x1d", "\x1e", "\x1f", " ", "\x85", "\xa0", "\u1680",
    *map(chr, range(0x2000, 0x200B)), "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
    "\u180e", "\u200b", "\u200d", "\u2060", "\ufeff",
]  # fmt: skip
ODD = [*"*jJ<>_|~!0189", "é", "ß", "Ａ", "中", "。", "́", "‿", "😀", "\ufffd", "\x7f", "\x01", "٣", "ª"]


def esm_texts(rng):
    fixed = [
        "", " ", "M", "MKJJL", "M<mask>L", "J J", "<null_1>A", "<mas", "<mask", "mask>", "<<mask>>", "<MASK>",
        "<mask><mask>", "<mask> <mask>", " <mask> ", "A<cls>A<eos>A<pad>A<unk>A", "<unk><unk>", "<unk>J<unk>",
        "<null_1", "<null_1>>", "<null>", "<null_<mask>", "<m<mask>ask>", "MK*", "MK**", "*", "mkl", "mKl",
        "MK L\n", "MK\r\nL", "MK\n\nL", "..--", "XBUZO", "J\x1cJ", "J\xa0J", "J\u200bJ", "J\u3000J", "J\x85J",
        "\ufeffMK", "<cls>MK<eos>", "A" * 300, "J" * 300, "JA" * 100, "é" * 3, "M😀K", "Ａ", "a\u0301",
    ]  # fmt: skip
    letters = list("LAGVSERTIDPKQNFYMHWCXBUZO.-")
    pieces = letters + list("jjJJ**abc") + ODD + SPACES + ESM_VOCABULARY[:4] + ESM_VOCABULARY[-2:]
    pieces += ["<", ">", "<m", "<ma", "<mask", "ask>", "<null_", "<cl", "<un", "k>"]
    for i in range(320):
        weight = rng.choice([0.0, 0.05, 0.3, 1.0])
        n = rng.choice([1, 2, 3, 5, 8, 13, 40])
        fixed.append("".join(rng.choice(pieces if rng.random() < weight else letters) for _ in range(n)))
    return fixed


def dna_texts(rng):
    fixed = [
        "", " ", "A", "ACGT", "acgt", "ANNA", "N", "NN", "A-A", "A--A", "A.-A", "A C", "A\nC", "A\r\nC", "[MASK]",
        "A[MASK]C", "A [MASK] C", "[MAS", "[[MASK]]", "[mask]", "[UNK][UNK]", "[CLS]A[SEP]", "A_C", "A1C", "é",
        "AéC", "A。C", "AaA", "A\xa0C", "A\u200bC", "A\u200dC", "A\x1cC", "A\u0301C", "ACGU", "*", "A*", "\x01", "A" * 400,
        "AC" * 200, "N" * 50, "AAT" * 100, "T" * 31 + "A" * 33, "_", "__", "-_-", "A😀😀C", "A中中C",
    ]  # fmt: skip
    pieces = list("ACGT") * 3 + list("NNnacgtU-") + ODD + SPACES + SPECIALS + ["[", "]", "[M", "ASK]", "DAY"]
    for i in range(220):
        weight = rng.choice([0.0, 0.02, 0.2, 1.0])
        n = rng.choice([1, 2, 3, 7, 20, 64, 200])
        fixed.append("".join(rng.choice(pieces if rng.random() < weight else "ACGT") for _ in range(n)))
    fixed += ["".join(rng.choice("ACGT") for _ in range(3000)), "".join(rng.choice("AT") for _ in range(2000))]
    return fixed


def trained(rng, size, alphabet, model=None):
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", **(model or {})))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False)
    # Uneven letters and repeats, so that tokens grow long, as genomes make them.
    corpus = []
    for _ in range(300):
        motif = "".join(rng.choice(alphabet) for _ in range(rng.randint(2, 12)))
        corpus.append("".join(motif if rng.random() < 0.3 else rng.choice(alphabet) for _ in range(200)))
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return tokenizer


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    (OUT / name).write_text(text.replace('],"', '],\n"').replace("},{", "},\n{") + "\n", encoding="ascii")


def write_bpe(name, tokenizer, texts, string_merges):
    value = json.loads(tokenizer.to_str())
    if string_merges:
        value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
        del value["model"]["ignore_merges"]
    assert Tokenizer.from_str(json.dumps(value)).get_vocab() == tokenizer.get_vocab()
    write(f"{name}_tokenizer.json", value)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    write(f"{name}.json", [{"text": t, "ids": tokenizer.encode(t).ids} for t in texts])


def main():
    for module in (tokenizers, transformers):
        have, want = module.__version__, PINNED[module.__name__]
        assert have == want, f"{module.__name__} {have}, pinned {want}"
    OUT.mkdir(parents=True, exist_ok=True)
    rng = random.Random(20)

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(ESM_VOCABULARY))
        esm = EsmTokenizer(str(vocabulary))
    write("esm.json", [{"text": t, "ids": esm(t)["input_ids"]} for t in esm_texts(rng)])

    write_bpe("bpe", trained(rng, 512, "ACGT"), dna_texts(rng), string_merges=True)

    truncated = trained(rng, 128, "AACGT")
    truncated.enable_truncation(max_length=20)
    truncated.enable_padding(pad_id=3, pad_token="[PAD]", length=16)
    write_bpe("bpe_truncated", truncated, dna_texts(rng)[:120], string_merges=False)

    # All that the published files do not use: unknowns fused, letters beyond ASCII in merges, an added token that is
    # not in the vocabulary and one that is matched after normalising.
    fused = trained(rng, 120, "ACGTNé中", {"fuse_unk": True})
    fused.add_tokens([AddedToken("DAY", normalized=True), AddedToken("[M", normalized=False)])
    write_bpe("bpe_fused", fused, dna_texts(rng)[:150], string_merges=False)


if __name__ == "__main__":
    main()
