"""The results of hardware/run as Markdown. Older ones lack some of what is asked for here."""

import statistics


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
    columns = ["test", "passed", "failed", "passed alone only", "not of a device", "seconds"]
    shown = []
    for r in rows:
        alone_only = ", ".join(r["alone_only"]) or "0" if "alone_only" in r else "not recorded"
        shown.append((r["test"], r["passed"], r["failed"], alone_only, r["not_run"], r["seconds"]))
    lines = ["## Tests", "", "`passed alone only`: of those passed, the ones that failed among the others and passed when run again "
             "alone.", "", *table(columns, shown)]
    said = [line for r in rows for line in r.get("said", [])]
    return lines + (["## Errors against the golden files", "", "norm(x - golden) / norm(golden), as the test program `cuda` prints it.", "",
                     *("    " + line for line in said), ""] if said else [])


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
    columns = ["seqstream", "seqstream gemm", "gemm", "hf", "page", "embed", "embed's own"]
    lines = ["## Tokens a second", "",
             "`seqstream gemm`: its matrix products alone (cuBLASLt), the floor; `gemm`: the same through torch, of the first "
             "workload, as it knows no lengths; `hf`: Hugging Face, sdpa, sorted by length (DNABERT: the plain PyTorch one); `page`: "
             "packed, compiled PyTorch; `embed`: from FASTA to shards on disk by the wall's clock, from the start of the process to "
             "its end, and `embed of it` is by that; `embed's own`: the same job by the program's clock, which leaves out its start-up "
             "(reading the file through, setting up the card). `seqstream` and its `gemm`: the median of as many runs of the program "
             "as `median of` says, each run's figure the median of its rounds; `gemm` and `embed`: the median of as many. Of `hf` and "
             "`page` the better round, since their first can be slower.", ""]
    shown, reports = [], []
    for key in dict.fromkeys(key[:3] for key in rates):
        of = lambda peer: rates.get((*key, peer.split("'")[0]), {})

        def rate(peer):
            r = of(peer)
            if "tokens_per_s" not in r or "error" in r:
                return None
            if peer in ("hf", "page"):
                return r["tokens"] / min(r["seconds"])
            seconds = {"embed": r.get("wall_seconds"), "embed's own": r.get("seconds")}.get(peer)
            return r["tokens"] / statistics.median(seconds) if seconds else r["tokens_per_s"]

        cells = ["failed" if "error" in of(p) else f"{rate(p):,.0f}" if rate(p) else "" for p in columns]
        ratio = lambda a, b, form: form.format(rate(a) / rate(b)) if rate(a) and rate(b) else ""
        source = next((r["source"] for k, r in rates.items() if k[:3] == key and r.get("source")), "")
        shown.append([*key, source, runs(of("seqstream"), rates.values()), *cells, ratio("seqstream", "seqstream gemm", "{:.0%}"),
                      ratio("seqstream", "hf", "{:.2f}"), ratio("seqstream", "page", "{:.2f}"),
                      ratio("embed", "seqstream", "{:.0%}")])
        if of("seqstream").get("reports"):
            reports.append((key[:2], of("seqstream")["reports"]))
    lines += table(["model", "dtype", "workload", "input", "median of", *columns, "of floor", "x hf", "x page", "embed of it"], shown)
    lines += jobs(rates)
    lines += ["What each peer chose, and where one failed:", ""]
    for key, r in rates.items():
        if r.get("setting") or r.get("error"):
            chosen = ", ".join(f"{k} {v}" for k, v in r.get("setting", {}).items())
            lines.append(f"- {' '.join(key)}: {r.get('error') or chosen}; {r.get('source', '')}")
    return [*lines, "", *operations(reports, ceilings)]


def runs(row, rows):
    """How many runs of the program a row is the median of, and how many rounds each had."""
    if not row.get("rates"):
        return ""
    # The program measures all workloads of a model at once: its report is beside one of them.
    reports = [report for r in rows if (r["model"], r["dtype"], r["peer"]) == (row["model"], row["dtype"], "seqstream")
               for report in r.get("reports", [])]
    rounds = {len(w["rounds"]) for report in reports for w in report["workloads"] if "rounds" in w}
    count, inside = len(row["rates"]), " or ".join(map(str, sorted(rounds)))
    return f"{count} run{'s' * (count > 1)}" + (f", {inside} round{'s' * (inside != '1')} each" if inside else "")


def jobs(rates):
    """The jobs of `embed`, each run of them."""
    shown = []
    for (model, dtype, workload, peer), r in rates.items():
        for i, (own, wall) in enumerate(zip(r.get("seconds", []), r.get("wall_seconds", []))):
            shown.append((model, dtype, workload, i + 1, f"{r['tokens']:,}", f"{wall:.2f}", f"{own:.2f}", f"{wall - own:.2f}"))
    columns = ["model", "dtype", "workload", "run", "tokens", "wall, s", "program's own, s", "start-up and end, s"]
    return ["`embed`, each run of it:", "", *table(columns, shown)] if shown else []


def floor_ms(operation, among, tokens, keys, config, dtype, ceilings):
    """The least that this card needs for all calls of an operation, one of those `among`, in a pass over `tokens`: bytes
    over the rate of a copy or FLOPs over that of a large product, whichever takes longer. Activations are of the dtype, the
    residual stream f32."""
    d, wide, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    dna, size = config["model_type"] == "bert", 4 if dtype == "f32" else 2
    # The product whose end is the activation: its outputs, and where it is an operation of its own.
    into, fused = (2 if dna else 1) * wide, {"product_gelu", "product_gated_gelu"}
    qkv = 3 * d if "product_rotated" in among else 0  # that of queries, keys and values, where it is one of its own
    # A token: bytes, FLOPs. The weights are read once a batch, which is little against a batch's activations.
    bytes_, flops = {
        "embed": (4 * d, 0),
        # DNABERT's stands after the sum and writes both the stream and what the next product reads; in f32 those are one.
        "layer_norm": ((2 * layers + 1) * (8 if dtype == "f32" else 8 + size) * d if dna else 2 * layers * (4 + size) * d, 0),
        "product": (0, layers * 2 * d * (4 * d - qkv + wide + (0 if fused & {*among} else into))),
        "product_rotated": (0, layers * 2 * d * qkv),
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
            name, found = workload["workload"], workload.get("operations", [])
            milliseconds = {}  # the median over the runs of the program
            for o in found:
                milliseconds[o["operation"]] = statistics.median(
                    other["milliseconds"] for run in those for w in run["workloads"] if w["workload"] == name
                    for other in w.get("operations", []) if other["operation"] == o["operation"])
            total = sum(milliseconds.values())
            for o in found:
                floor, near, ms = "", "", milliseconds[o["operation"]]
                if "copy_bytes_per_s" in ceilings:
                    least = floor_ms(o["operation"], [*milliseconds], workload["tokens"], workload["keys_per_query"],
                                     report["config"], dtype, ceilings)
                    if least:
                        floor, near = f"{least:.2f}", f"{least / ms:.0%}"
                rows.append((model, dtype, name, o["operation"], f"{ms:.2f}", o["calls"], f"{ms / total:.1%}", floor, near))
        for i, c in enumerate(r["cold_start"] for r in those if r.get("cold_start")):
            hidden = [r["hidden_of_what_could_be"] for r in c.get("rounds", []) if r["hidden_of_what_could_be"] is not None]
            share = c["hidden_of_what_could_be"]
            cold.append((model, dtype, i + 1, c.get("workload", ""), f"{c['load_seconds']:.3f}", f"{c['compute_seconds']:.3f}",
                         f"{c['overlapped_seconds']:.3f}", f"{c['least_seconds']:.3f}" if "least_seconds" in c else "",
                         f"{c['hidden_of_load']:.0%}", "" if share is None else f"{share:.0%}",
                         f"{min(hidden):.0%} to {max(hidden):.0%} of {len(hidden)}" if hidden else ""))
    lines = []
    if rows:
        lines += ["## Time by operation, against its floor", "", "Of a pass over the workload with a fence around each operation: "
                  "the median over the runs of the program.", ""]
        if "copy_bytes_per_s" in ceilings:
            lines += [f"Floors by this card's own rates: {ceilings['copy_bytes_per_s'] / 1e12:.2f} TB/s (a copy, read and written), "
                      f"{ceilings['product_flop_per_s'] / 1e12:.0f} TFLOP/s (an f16 product of 8192^3, random numbers)"
                      + (f", {ceilings['product_f32_flop_per_s'] / 1e12:.0f} in f32." if "product_f32_flop_per_s" in ceilings else "."), ""]
        lines += table(["model", "dtype", "workload", "operation", "ms", "calls", "share", "floor, ms", "reached"], rows)
    if cold:
        lines += ["## Cold start", "", "Medians of a run's rounds, each by itself. `at least`: about what both take where no layer is computed before its weights "
                  "are there, by the bytes of the layers on the device and the two times before it (older results: the longer of the two). "
                  "`rounds`: the least and the most of what could be hidden.", "",
                  *table(["model", "dtype", "run", "workload", "load, s", "compute, s", "both, s", "at least, s", "hidden of the load",
                          "of what could be", "rounds"], cold)]
    return lines
