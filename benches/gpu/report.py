"""The results of benches/gpu/run as Markdown."""


def table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]


def markdown(results):
    m, torch, pack = results["machine"], results.get("torch", {}), results["pack"]
    versions = "".join(f", {name} {torch[name]}" for name in ("torch", "transformers", "cudnn") if name in torch)
    if results.get("cublaslt"):
        versions += f", cuBLASLt {results['cublaslt']['version']}"
    lines = [f"# {m['device']}, {results['date']}", "",
             f"Driver {m['driver']}, {m['cores']} cores{versions}; seqstream at {pack['commit']}, kernels for "
             f"sm_{pack['architectures']} by nvcc {pack['kernels'].get('nvcc')}, {pack['rustc']}.", ""]
    lines += table(["step", "seconds", "outcome"],
                   [(" ".join([s["step"], *(s.get("of") or s.get("models", []))]), s["seconds"], "ok" if not s["failures"] else f"{len(s['failures'])} failed") for s in results["steps"]])
    for step in results["steps"]:
        lines += [f"- {step['step']}: {failure}" for failure in step["failures"]]
    parts = {"tests": tests, "checks": checks, "sanitizer": sanitizer,
             "measurements": lambda rows: measurements(rows, torch), "kernels": kernels, "by_hand": by_hand}
    for name, part in parts.items():
        if results.get(name):
            lines += ["", *part(results[name])]
    return "\n".join(lines).rstrip() + "\n"


def tests(rows):
    return ["## Tests", "", *table(["test", "passed", "failed", "not of a device", "seconds"],
                                   [(r["test"], r["passed"], r["failed"], r["not_run"], r["seconds"]) for r in rows])]


def kernels(found):
    lines = ["## Products and kernels, one at a time", ""]
    for name, said in found.items():
        lines += [f"`{name}`:", "", *("    " + line for line in said), ""]
    return lines


def by_hand(found):
    """What was run beside this command, on the same pack and kind of card, and added to the JSON."""
    lines = ["## Beside these", ""]
    for entry in found:
        lines += [entry["what"], "", *("    " + line for line in entry["said"]), ""]
    return lines


def checks(found):
    rows = [(c["model"], e["who"], e["dtype"], e["of"], f"{e['max']:.2e}", f"{e['median']:.2e}", f"{e['ratio']:.2f}")
            for c in found for e in c["errors"]]
    return ["## Errors against float64", "", "norm(x - f64) / norm(f64) of a sequence; the ratio is to the PyTorch run's largest.", "",
            *table(["model", "who", "dtype", "of", "largest", "median", "ratio"], rows)]


def sanitizer(rows):
    return ["## compute-sanitizer", "", *table(["tool", "model", "dtype", "summary", "seconds"],
                                              [(r["tool"], r["model"], r["dtype"], r["summary"], r["seconds"])
                                               for r in sorted(rows, key=lambda r: (r["tool"], r["model"], r["dtype"]))])]


def measurements(rows, ceilings):
    rates = {(r["model"], r["dtype"], r["workload"], r["peer"]): r for r in rows}
    columns = ["seqstream", "seqstream gemm", "gemm", "hf", "page", "embed"]
    lines = ["## Tokens a second", "",
             "`seqstream gemm`: its matrix products alone (cuBLASLt), the floor; `gemm`: the same through torch; `hf`: Hugging Face, sdpa, "
             "sorted by length (DNABERT: the plain PyTorch one); `page`: packed, compiled PyTorch; `embed`: from FASTA to shards on disk. "
             "Medians; of `hf` and `page` the better round, since their first can be slower.", ""]
    shown, reports = [], []
    for key in dict.fromkeys(key[:3] for key in rates):
        of = lambda peer: rates.get((*key, peer), {})
        best = lambda r: r["tokens"] / min(r["seconds"]) if r["peer"] in ("hf", "page") else r["tokens_per_s"]
        rate = lambda peer: best(of(peer)) if "tokens_per_s" in of(peer) and "error" not in of(peer) else None
        cells = ["failed" if "error" in of(p) else f"{rate(p):,.0f}" if rate(p) else "" for p in columns]
        ratio = lambda a, b, form: form.format(rate(a) / rate(b)) if rate(a) and rate(b) else ""
        shown.append([*key, *cells, ratio("seqstream", "seqstream gemm", "{:.0%}"), ratio("seqstream", "hf", "{:.2f}"),
                      ratio("seqstream", "page", "{:.2f}"), ratio("embed", "seqstream", "{:.0%}")])
        if of("seqstream").get("reports"):
            reports.append((key[:2], of("seqstream")["reports"]))
    lines += table(["model", "dtype", "workload", *columns, "of floor", "x hf", "x page", "embed of it"], shown)
    lines += ["The inputs, and what each peer chose:", ""]
    for key, r in rates.items():
        if r.get("setting") or r.get("error"):
            chosen = ", ".join(f"{k} {v}" for k, v in r.get("setting", {}).items())
            lines.append(f"- {' '.join(key)}: {r.get('error') or chosen}; {r.get('source', '')}")
    return [*lines, "", *operations(reports, ceilings)]


def floor_ms(operation, among, tokens, keys, config, dtype, ceilings):
    """The least that this card needs for all calls of an operation, one of those `among`, in a pass over `tokens`: bytes
    over the rate of a copy or FLOPs over that of a large product, whichever takes longer. Activations are of the dtype, the
    residual stream f32."""
    d, wide, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    dna, size = config["model_type"] == "bert", 4 if dtype == "f32" else 2
    # The product whose end is the activation: its outputs, and where it is an operation of its own.
    into, fused = (2 if dna else 1) * wide, {"product_gelu", "product_gated_gelu"}
    # A token: bytes, FLOPs. The weights are read once a batch, which is little against a batch's activations.
    bytes_, flops = {
        "embed": (4 * d, 0),
        # DNABERT's stands after the sum and writes both the stream and what the next product reads; in f32 those are one.
        "layer_norm": ((2 * layers + 1) * (8 if dtype == "f32" else 8 + size) * d if dna else 2 * layers * (4 + size) * d, 0),
        "product": (0, layers * 2 * d * (4 * d + wide + (0 if fused & {*among} else into))),
        "product_gelu": (0, layers * 2 * d * into),
        "product_gated_gelu": (0, layers * 2 * d * into),
        "gelu": (layers * 2 * size * wide, 0),
        "gated_gelu": (layers * 3 * size * wide, 0),
        "attention": (layers * 4 * size * d, layers * 4 * d * keys),
        "represent": (4 * d, 0),
    }.get(operation, (0, 0))
    # In f32 there are no tensor cores; results from before its rate was measured have no such floor.
    flops_per_s = ceilings.get("product_f32_flop_per_s" if dtype == "f32" else "product_flop_per_s")
    if flops and not flops_per_s:
        return 0
    return 1e3 * tokens * max(bytes_ / ceilings["copy_bytes_per_s"], flops / flops_per_s if flops else 0)


def operations(reports, ceilings):
    rows, cold = [], []
    for (model, dtype), those in reports:
        report = those[-1]
        for workload in report["workloads"]:
            among = [o["operation"] for o in workload.get("operations", [])]
            total = sum(o["milliseconds"] for o in workload.get("operations", []))
            for o in workload.get("operations", []):
                floor = ""
                if "copy_bytes_per_s" in ceilings:
                    least = floor_ms(o["operation"], among, workload["tokens"], workload["keys_per_query"], report["config"],
                                     dtype, ceilings)
                    floor = f"{least:.2f}" if least else ""
                near = f"{least / o['milliseconds']:.0%}" if floor else ""
                rows.append((model, dtype, workload["workload"], o["operation"], f"{o['milliseconds']:.2f}", o["calls"],
                             f"{o['milliseconds'] / total:.1%}", floor, near))
        for c in [report["cold_start"] for report in those if report.get("cold_start")][:1]:
            cold.append((model, dtype, f"{c['load_seconds']:.3f}", f"{c['compute_seconds']:.3f}", f"{c['overlapped_seconds']:.3f}",
                         f"{c['hidden_of_load']:.0%}", f"{c['hidden_of_what_could_be']:.0%}"))
    lines = []
    if rows:
        lines += ["## Time by operation, against its floor", ""]
        if "copy_bytes_per_s" in ceilings:
            lines += [f"Floors by this card's own rates: {ceilings['copy_bytes_per_s'] / 1e12:.2f} TB/s (a copy, read and written), "
                      f"{ceilings['product_flop_per_s'] / 1e12:.0f} TFLOP/s (an f16 product of 8192^3, random numbers)"
                      + (f", {ceilings['product_f32_flop_per_s'] / 1e12:.0f} in f32." if "product_f32_flop_per_s" in ceilings else "."), ""]
        lines += table(["model", "dtype", "workload", "operation", "ms", "calls", "share", "floor, ms", "reached"], rows)
    if cold:
        lines += ["## Cold start", "", *table(["model", "dtype", "load, s", "compute, s", "both, s", "hidden of the load",
                                              "of what could be"], cold)]
    return lines
