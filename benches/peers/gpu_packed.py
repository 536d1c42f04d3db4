"""What the two pages of PyTorch share: batches without padding, and attention over them.

A batch is a fixed number of tokens, sequences end to end, so that torch.compile sees one shape and compiles once. What is
left over at its end belongs to no sequence. Batches are made before the clock starts.
"""

import bisect
import dataclasses
import time

import torch
import torch.nn.functional as F


@dataclasses.dataclass
class Batch:
    members: list  # which sequences, by their place in the input
    ids: torch.Tensor  # [budget]
    positions: torch.Tensor  # [budget]: from each sequence's own start
    starts: torch.Tensor  # int32 [sequences + 1]
    rows: torch.Tensor  # [budget]: the sequence whose mean a token is part of; `sequences` where of none
    longest: int
    attended: tuple = ()  # what the chosen attention needs, from its `prepare`


def pack(encoded, budget, device, ends):
    """Batches of `budget` tokens. The longest sequences first, and what still fits fills a batch up: a batch's
    sequences are of like lengths, its end small. `ends`: special tokens at either end, outside the mean."""
    left = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    lengths = [len(encoded[i]) for i in left]
    if lengths[-1] > budget:
        raise ValueError(f"a sequence of {lengths[-1]} tokens does not fit into {budget}")
    batches = []
    while left:
        members, free = [], budget
        while at := bisect.bisect_right(lengths, free):
            members.append(left.pop(at - 1))
            free -= lengths.pop(at - 1)
        sizes = torch.tensor([len(encoded[i]) for i in members])
        ids = torch.tensor([token for i in members for token in encoded[i]] + [0] * free)
        starts = F.pad(sizes.cumsum(0), (1, 0))
        rows = torch.repeat_interleave(torch.arange(len(members)), sizes)
        positions = torch.arange(budget - free) - starts[rows]
        outside = (positions < ends) | (positions >= sizes[rows] - ends)
        rows = F.pad(rows.masked_fill(outside, len(members)), (0, free), value=len(members))
        batches.append(Batch(members, ids.to(device), F.pad(positions, (0, free)).to(device),
                             starts.int().to(device), rows.to(device), int(sizes.max())))
    return batches


# An attention is a pair of functions: `prepare(batch, dtype)`, once a batch, outside the clock, and
# `attend(q, k, v, *prepared)` over [tokens, heads, head_dim], inside the compiled layer. `slopes`: ALiBi's, or None.


def flash(slopes):
    """FlashAttention 2 over packed sequences, as PyTorch has it since 2.10. Its build has no ALiBi."""
    if slopes is not None:
        raise NotImplementedError("PyTorch builds FlashAttention without ALiBi")
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        def varlen_attn(q, k, v, starts, same, longest, same_longest):
            return torch.ops.aten._flash_attention_forward(q, k, v, starts, same, longest, same_longest, 0.0,
                                                           False, False)[0]
    return (lambda batch, dtype: (batch.starts, batch.longest),
            lambda q, k, v, starts, longest: varlen_attn(q, k, v, starts, starts, longest, longest))


@torch.library.custom_op("peers::cudnn_attention", mutates_args=())
def cudnn_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int) -> torch.Tensor:
    return torch.ops.aten._cudnn_attention_forward(q, k, v, None, starts, starts, longest, longest, True, 0.0, False,
                                                   False, scale=q.shape[-1] ** -0.5)[0]


@cudnn_attention.register_fake
def _(q, k, v, starts, longest):
    return q.new_empty(q.shape)


def cudnn(slopes):
    """cuDNN's attention over packed sequences."""
    if slopes is not None:
        raise NotImplementedError("cuDNN's packed attention has no ALiBi")
    return lambda batch, dtype: (batch.starts, batch.longest), cudnn_attention


def flex(slopes):
    """flex_attention: a Triton kernel made from the mask of a packed batch, and from ALiBi."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def prepare(batch, dtype):
        tokens = len(batch.ids)
        document = torch.zeros(tokens, dtype=torch.int32, device=batch.ids.device)
        document[batch.starts[1:][batch.starts[1:] < tokens].long()] = 1
        document = document.cumsum(0)
        same = lambda b, h, q, k: document[q] == document[k]
        return (create_block_mask(same, None, None, tokens, tokens, device=str(batch.ids.device)),)

    def attend(q, k, v, mask):
        bias = None if slopes is None else lambda score, b, h, i, j: score - slopes[h] * (i - j).abs()
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return flex_attention(q, k, v, score_mod=bias, block_mask=mask)[0].transpose(0, 1)

    return prepare, attend


def padded(slopes):
    """scaled_dot_product_attention over [sequences, longest], gathered from the packed tokens and put back: for
    sequences of like lengths. The bias (ALiBi and padding) is made once a batch."""

    def prepare(batch, dtype):
        device, longest = batch.ids.device, -(-batch.longest // 8) * 8
        sizes = batch.starts.diff()
        within = torch.arange(longest, device=device)
        there = (batch.starts[:-1, None] + within).clamp(max=len(batch.ids) - 1)
        counted = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
        back = F.pad(counted * longest + batch.positions[: len(counted)], (0, len(batch.ids) - len(counted)))
        bias = torch.zeros(1, 1, 1, 1, device=device)
        if slopes is not None:
            bias = -slopes[:, None, None] * (within[:, None] - within).abs()
        bias = bias.masked_fill((within >= sizes[:, None])[:, None, None], float("-inf"))
        return there, back, bias.to(dtype)

    def attend(q, k, v, there, back, bias):
        q, k, v = (x[there].transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return out.transpose(1, 2).flatten(0, 1)[back]

    return prepare, attend


ATTENTIONS = {"flash": flash, "cudnn": cudnn, "flex": flex, "padded": padded}


def best_attention(batch, heads, head_dim, dtype, slopes=None, log=print):
    """The fastest attention for this batch: each alone, on random q, k, v. {name: seconds}, fastest first."""
    q, k, v = torch.randn(3, len(batch.ids), heads, head_dim, device=batch.ids.device, dtype=dtype).unbind()
    tried = {}
    for name, make in ATTENTIONS.items():
        try:
            prepare, attend = make(slopes)
            compiled, prepared = torch.compile(attend), prepare(batch, dtype)
            times = []
            for _ in range(5):
                start = now(batch.ids.device)
                compiled(q, k, v, *prepared)
                times.append(now(batch.ids.device) - start)
            tried[name] = min(times)
            log(f"    attention by {name}: {1e3 * tried[name]:.2f} ms for {len(batch.ids)} tokens")
        except Exception as error:  # a peer's way that this machine has not is one way less
            log(f"    attention by {name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    return dict(sorted(tried.items(), key=lambda item: item[1]))


def now(device):
    """The host's clock, once the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
