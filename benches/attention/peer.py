"""FlashAttention 2 over packed sequences by PyTorch (`varlen_attn`), for the ladder: TFLOP/s, without rotation.

    python3 peer.py LENGTH...
"""
import statistics
import subprocess
import sys

import torch
from torch.nn.attention.varlen import varlen_attn


def median_seconds(launch):
    times = []
    for n in range(-3, 11):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        launch(n % 2)
        end.record()
        end.synchronize()
        if n >= 0:
            times.append(start.elapsed_time(end))
    return statistics.median(times) * 1e-3


print(torch.__version__, torch.cuda.get_device_name())
for heads, width in [(20, 64), (40, 128), (20, 32), (20, 16)]:
    line = []
    for length in map(int, sys.argv[1:]):
        tokens = -(-33800 // length) * length
        qkv = [torch.randn(tokens, 3, heads, width, device="cuda", dtype=torch.float16) * 1.4 for _ in range(2)]
        starts = torch.arange(0, tokens + 1, length, device="cuda", dtype=torch.int32)

        def launch(i):
            q, k, v = qkv[i].unbind(1)
            return varlen_attn(q, k, v, starts, starts, length, length)

        rate = 4 * tokens * length * heads * width / median_seconds(launch) / 1e12
        line.append(f"{length}: {rate:.1f}")
    print(f"varlen_attn, {heads} heads of {width}:", ", ".join(line), flush=True)
state = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader"]
print(subprocess.run(state, capture_output=True, text=True).stdout)
