"""The peers on the GPU. Each has `axes` (the settings it may choose from), `prepare` (batches, outside the clock), `run`
(the means of each batch's sequences) and `members` (which sequences those are)."""

import types

import torch
import torch.nn.functional as F

from cpu import batches
from dnabert_torch import Dnabert
from gpu_dnabert import DnabertPage
from gpu_esm2 import Esm2Page
from gpu_packed import best_attention, pack
from gpu_weights import hugging_face, load_config

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
# Multiples of 132 multiprocessors x 128 rows: whole waves of tiles. Halves and doubles follow where one at an edge is best.
PACKED_BUDGETS = [33_792, 67_584, 16_896]
PADDED_BUDGETS = [32_768, 65_536, 16_384]


class Padded:
    """Hugging Face's EsmModel, or the plain DNABERT: sdpa, sorted by length, padded batches of a token budget."""

    def __init__(self, folder, device, dtype, dna, options):
        self.device, self.options, self.dna, self.pad = device, options, dna, 3 if dna else 1
        self.model = Dnabert(folder, device, dtype) if dna else hugging_face(folder, device, dtype)

    def axes(self, encoded):
        budgets, lengths = self.options.budgets or PADDED_BUDGETS, {len(ids) for ids in encoded}
        # Batches of one length need no padding; where a length has few tokens they are small, and seconds for nothing.
        apart = len(lengths) > 1 and sum(map(len, encoded)) / len(lengths) >= min(budgets)
        return {"budget": budgets, "equal_lengths_only": [False, True] if apart else [False]}

    def prepare(self, encoded, setting):
        made = []
        for group, ids, mask, lengths in batches(self, encoded, setting["budget"], setting["equal_lengths_only"]):
            part = mask.clone()
            if not self.dna:  # the mean is over residues, without <cls> and <eos>
                part[:, 0] = 0
                part[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 0
            part = (part / part.sum(1, keepdim=True)).to(self.device)
            # A batch that needs no padding gets no mask: the faster attention, and no look at the mask's values.
            mask = mask.to(self.device) if min(lengths) < lengths[0] else None
            made.append((group, ids.to(self.device), mask, lengths, part))
        return made

    def run(self, made):
        rows = []
        for group, ids, mask, lengths, part in made:
            if self.dna:
                states = self.model(ids, lengths)
            else:
                states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            rows.append(torch.bmm(part[:, None], states.float())[:, 0])
        return rows

    def members(self, made):
        return [i for batch in made for i in batch[0]]


class Page:
    """The best PyTorch that fits a page: `gpu_esm2.py`, `gpu_dnabert.py`."""

    def __init__(self, folder, device, dtype, dna, options):
        self.device, self.options, self.built, self.attentions = device, options, {}, None
        self.model = (DnabertPage if dna else Esm2Page)(folder, device, dtype)

    def axes(self, encoded):
        if self.attentions is None:  # the same for all workloads of a model: the first is the ragged one
            budget = (self.options.budgets or PACKED_BUDGETS)[0]
            batch, model = pack(encoded, budget, self.device, self.model.ends)[0], self.model
            tried = best_attention(batch, model.heads, model.head_dim, model.dtype, model.slopes, self.options.log)
            self.attentions = list(tried)
        return {"attention": self.attentions[:2], "residual": list(dict.fromkeys([self.options.dtype, "f32"])),
                "budget": self.options.budgets or PACKED_BUDGETS, "mode": self.options.modes}

    def prepare(self, encoded, setting):
        key, model = tuple(sorted(setting.items())), self.model
        if key not in self.built:
            # Each setting compiles a copy of the layer's code, under a name of its own: so what is compiled for the others
            # stays, and dynamo, which makes a size dynamic once it has seen two, keeps to one number of tokens.
            layer = type(model).one_layer
            code = layer.__code__.replace(co_name=f"one_layer_{len(self.built)}")
            model.one_layer = types.MethodType(types.FunctionType(code, layer.__globals__), model)
            mode = None if setting["mode"] == "default" else setting["mode"]
            model.build(setting["attention"], DTYPES[setting["residual"]], mode)
            self.built[key] = {name: getattr(model, name) for name in ("prepare", "attend", "residual", "layer")}
        vars(model).update(self.built[key])
        made = pack(encoded, setting["budget"], self.device, self.model.ends)
        for batch in made:
            batch.attended = self.model.prepare(batch, self.model.dtype)
        return made

    def run(self, made):
        return [self.model(batch) for batch in made]

    def members(self, made):
        return [i for batch in made for i in batch.members]


class Gemm:
    """The matrix products of the model alone, with bias, through torch's linear: each layer its own weights."""

    def __init__(self, folder, device, dtype, dna, options):
        config = load_config(folder)
        d, wide = config["hidden_size"], config["intermediate_size"]
        first = 2 * wide if dna else wide
        self.shapes = [(3 * d, d), (d, d), (first, d), (d, wide)]
        make = lambda *shape: torch.randn(*shape, device=device, dtype=dtype) * shape[-1] ** -0.5
        self.layers = [[(make(*shape), make(shape[0])) for shape in self.shapes]
                       for _ in range(config["num_hidden_layers"])]
        self.make, self.options = make, options

    def axes(self, encoded):
        return {"budget": self.options.budgets or PACKED_BUDGETS}

    def prepare(self, encoded, setting):
        budget, tokens = setting["budget"], sum(map(len, encoded))
        self.tokens = -(-tokens // budget) * budget
        inputs = {inner: self.make(budget, inner) * inner ** 0.5 for _, inner in self.shapes}
        return inputs, self.tokens // budget

    def run(self, made):
        inputs, passes = made
        for _ in range(passes):
            for layer in self.layers:
                for (_, inner), (weight, bias) in zip(self.shapes, layer):
                    F.linear(inputs[inner], weight, bias)


PEERS = {"hf": Padded, "page": Page, "gemm": Gemm}

