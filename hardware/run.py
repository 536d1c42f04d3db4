"""All that is to be shown on a real GPU, in one command: tests, errors, sanitizers, speed. See README.md beside this.

    hardware/run --pack target/gpu-pack [--only tests,check,sanitize,kernels,bench] [--models 650M,3B,dnabert-s]

A step that fails or runs out of time is reported, and the next one goes on. Exit code 1 where any failed.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import report

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS = ROOT / "benches" / "peers"
# Seconds; `--only` cuts it into parts.
LIMITS = {"tests": 180, "models": 120, "check": 300, "sanitize": 300, "kernels": 120, "bench": 2400}
# Every head width, an odd number of heads among them; small, since a sanitizer slows everything some 50 times.
SMALL = {
    "esm2-head16": ["--kind", "esm2", "--layers", "2", "--hidden", "80", "--heads", "5"],
    "esm2-head24": ["--kind", "esm2", "--layers", "2", "--hidden", "120", "--heads", "5"],
    "esm2-head32": ["--kind", "esm2", "--layers", "2", "--hidden", "128", "--heads", "4"],
    "esm2-head64": ["--kind", "esm2", "--layers", "2", "--hidden", "192", "--heads", "3"],
    "esm2-head128": ["--kind", "esm2", "--layers", "2", "--hidden", "256", "--heads", "2"],
    "dnabert-head64": ["--kind", "dnabert", "--layers", "2", "--hidden", "192", "--heads", "3"],
}
SANITIZE_LENGTHS = [1, 2, 3, 7, 14, 15, 16, 17, 30, 31, 33, 62, 63, 64, 65, 126, 127, 129, 190, 255, 300, 520]
# cuBLASLt's own kernels, which are not ours to mend.
NOT_OURS = "regex=^(_Z|nvjet|cutlass|cublas|gemm[^_]|gemv|sm[0-9]+_xmma|ampere|volta|turing|void)"
SANITIZERS = {"memcheck": [], "racecheck": [], "synccheck": ["--kernel-name-exclude", NOT_OURS]}


class Run:
    def __init__(self, options):
        self.options, self.pack = options, options.pack.resolve()
        self.manifest = json.loads((self.pack / "manifest.json").read_text())
        self.work, self.logs = options.work, options.work / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        for name in ("seqstream", "weights-tools", *self.manifest["tests"], *self.manifest["benches"]):
            self.program(name).chmod(0o755)  # what carried them may have lost that
        packed = {key: value for key, value in self.manifest.items() if key not in ("root", "programs")}  # folders of a machine
        self.results = {"date": datetime.date.today().isoformat(), "pack": packed, "machine": machine(options.device), "steps": []}
        said = subprocess.run([self.program("seqstream"), "doctor", "--json"], capture_output=True, text=True, check=True).stdout
        self.results["cublaslt"] = json.loads(said)["cublaslt"]
        self.deadline = None
        self.continue_file()

    def program(self, name):
        return self.pack / name

    def left(self, most=1e9):
        """Seconds that a command may run, of what its step has left."""
        return max(1.0, min(most, self.deadline - time.monotonic()))

    def command(self, name, arguments, most=1e9, **environment):
        """Runs it within the step's time, its output in a log. (exit code or None where it ran out of time, output, seconds)"""
        log, start = self.logs / f"{name}.log", time.monotonic()
        with log.open("w") as out:
            process = subprocess.Popen([str(a) for a in arguments], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL, env={**os.environ, **environment}, start_new_session=True)
            try:
                code = process.wait(self.left(most))
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:  # its children too: PyTorch's compilers, programs it measures
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return code, log.read_text(errors="replace"), time.monotonic() - start

    def step(self, name, run):
        start, failures = time.monotonic(), []
        self.deadline = start + self.options.limit.get(name, LIMITS[name])
        print(f"\n==== {name}", flush=True)
        try:
            failures = run()
        except Exception as error:
            failures = [f"{type(error).__name__}: {error}"]
        seconds = time.monotonic() - start
        again = {"check": self.options.models, "bench": [*self.options.models, *self.options.dtypes]}.get(name)
        self.results["steps"] = [s for s in self.results["steps"] if (s["step"], s.get("of")) != (name, again)]
        row = {"step": name, "seconds": round(seconds, 1), "failures": failures}
        self.results["steps"].append(row | ({"of": again} if again else {}))
        for failure in failures:
            print(f"FAILED: {failure}", flush=True)
        print(f"==== {name}: {'failed' if failures else 'ok'}, {seconds:.0f} s", flush=True)
        self.write()

    def stem(self):
        return f"{self.results['date']}-{re.sub('[^A-Za-z0-9]+', '-', self.results['machine']['device']).strip('-').lower()}"

    def continue_file(self):
        """What stands of today, on such a device and with this very pack, is kept: a run can be cut into parts."""
        file = self.options.results / f"{self.stem()}.json"
        if not file.exists():
            return
        there = json.loads(file.read_text())
        if all(there.get(key) == self.results[key] for key in ("pack", "machine")):
            self.results = there
            print(f"going on with {file}", flush=True)

    def write(self):
        stem = self.stem()
        folders = [self.options.results] + ([pathlib.Path(os.environ["OUT"])] if os.environ.get("OUT") else [])
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{stem}.json").write_text(json.dumps(self.results, indent=1) + "\n")
            (folder / f"{stem}.md").write_text(report.markdown(self.results))

    def at_build_paths(self):
        """Tests look for files and the program where they were built: links make those paths lead here."""
        built = pathlib.Path(self.manifest["root"])
        if not built.exists():
            built.parent.mkdir(parents=True, exist_ok=True)
            built.symlink_to(ROOT)
        elif built.resolve() != ROOT:
            raise RuntimeError(f"the tests look for their files in {built}, which is another folder here: run from there, or move it away")
        for name, path in self.manifest["programs"].items():
            path = pathlib.Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                path.unlink()
            if not path.exists():
                path.symlink_to(self.program(name))

    def tests(self):
        self.at_build_paths()
        rows, failures = [], []
        self.results["tests"] = rows
        environment = {"SEQSTREAM_TEST_GPU": "1", "REQUIRE_GPU": "1"} if self.options.device == "cuda" else {}
        # The others know the simulated driver alone, and a real device adds nothing to them.
        every = self.manifest["test_files"]
        names = self.manifest["gpu_test_files"] if self.options.device == "cuda" else every
        print(f"not of a device, and not run: {', '.join(sorted({*every} - {*names}))}", flush=True)
        for name in names:
            program, _, file = name.partition("::")
            code, text, seconds = self.command(f"{program}-{file}", [self.program(program), f"{file}::", "--test-threads", 4, "--show-output"],
                                               RUST_BACKTRACE="1", **environment)
            not_run = text.count("\nnot run: ")  # said by tests of the simulated driver alone
            counts = re.search(r"test result: \w+\. (\d+) passed; (\d+) failed", text)
            passed, failed = map(int, counts.groups()) if counts else (0, 0)
            broken, alone_only = re.findall(r"^test (\S+) \.\.\. FAILED", text, re.MULTILINE), []
            said = golden(text)
            if broken and self.options.device == "cuda":  # one that kills the device takes others with it: each alone
                texts = {}
                for test in broken:
                    alone, its, more = self.command(f"{program}-{test.replace('::', '-')}",
                                                    [self.program(program), "--exact", test, "--show-output"],
                                                    RUST_BACKTRACE="1", **environment)
                    seconds += more
                    if alone != 0:
                        texts[test] = "\n".join(its.splitlines()[-40:])
                    else:
                        alone_only.append(test)
                        said += [line for line in golden(its) if line not in said]
                passed, failed, broken = passed + len(broken) - len(texts), len(texts), list(texts)
                code, text = (code or 1) if texts else 0, "\n".join(texts.values())
            rows.append({"test": name, "passed": passed - not_run, "failed": failed, "not_run": not_run, "seconds": round(seconds, 1),
                         "broken": broken, "alone_only": alone_only} | ({"said": said} if said else {}))
            print(f"{name}: {passed - not_run} passed, {failed} failed, {not_run} not of a device, {seconds:.1f} s", flush=True)
            if alone_only:  # either one that failed took it along, or it fails at times: both are to be looked at
                failures.append(f"{name}: failed among the others, passed alone: {', '.join(alone_only)}")
            if code != 0:
                failures.append(f"{name}: {'out of time' if code is None else f'exit code {code}'}; {', '.join(broken)}")
                print("\n".join(text.splitlines()[-60:]), flush=True)
        return failures

    def models(self):
        """Random models of true size, and the small ones; those that stand already are kept."""
        wanted = {name: ["--arch", name] for name in self.options.models}
        if "sanitize" in self.options.only:
            wanted |= SMALL
        failures = []

        def make(name):
            folder = self.work / "models" / name
            if (folder / "config.json").exists():
                return
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            command = [self.program("weights-tools"), "random", *wanted[name], "--seed", 1, "--out", partial]
            code, text, seconds = self.command(f"models-{name}", command)
            if code != 0:
                failures.append(f"{name}: {text[-300:]}")
                return
            if name.startswith("dnabert") and name not in SMALL and self.options.tokenizer:
                shutil.copyfile(self.options.tokenizer, partial / "tokenizer.json")
            partial.rename(folder)
            print(f"{name}: {seconds:.1f} s", flush=True)

        (self.work / "models").mkdir(exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(make, wanted))
        return failures

    def check(self):
        failures = []
        self.results["checks"] = [c for c in self.results.get("checks", []) if c["model"] not in self.options.models]
        for i, name in enumerate(self.options.models):
            out = self.work / f"check-{name}.json"
            out.unlink(missing_ok=True)
            command = [sys.executable, PEERS / "gpu_check.py", "--model", self.work / "models" / name, "--out", out,
                       "--seqstream", self.program("seqstream"), "--device", self.options.device, "--dtypes", ",".join(self.options.dtypes)]
            code, text, _ = self.command(f"check-{name}", command, self.left() / (len(self.options.models) - i))
            print(text if code == 0 else text[-3000:], flush=True)
            if out.exists():
                self.results["checks"].append(json.loads(out.read_text()))
            if code != 0:
                failures.append(f"{name}: {'out of time' if code is None else f'exit code {code}'}")
        return failures

    def sanitize(self):
        sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
        if not sanitizer:
            return ["no compute-sanitizer on PATH or in /usr/local/cuda/bin"]
        generator, rows, failures = random.Random(3), [], []
        self.results["sanitizer"] = rows
        # Under racecheck cuBLASLt's kernels for f16 and bf16 end in an illegal address: there the products are plain ones.
        plain = {"SEQSTREAM_LIBCUBLASLT": str(self.work / "libplain_cublaslt.so"), "SEQSTREAM_CACHE": str(self.work / "plain")}
        nvcc = shutil.which("nvcc", path=f"{os.environ['PATH']}:/usr/local/cuda/bin") or "nvcc"
        tools = list(SANITIZERS)
        try:
            code, text, _ = self.command("plain-cublaslt", [
                nvcc, "-O2", "-arch=native", "-shared", "-Xcompiler", "-fPIC", "-o", plain["SEQSTREAM_LIBCUBLASLT"],
                ROOT / "hardware" / "plain_cublaslt.cu"])
        except OSError as error:
            code, text = 1, str(error)
        if code != 0:  # the other tools do not need it
            tools.remove("racecheck")
            failures.append(f"racecheck: plain_cublaslt.cu is not compiled: {text[-500:]}")
        for kind, letters, each in ("esm2", "LAGVSERTIDPKQNFYMHWC", 1), ("dnabert", "ACGT", 5):
            with (self.work / f"{kind}.fasta").open("w") as out:
                for length in SANITIZE_LENGTHS:
                    out.write(f">{length}\n{''.join(generator.choices(letters, k=each * length))}\n")

        def one(job):
            tool, model, dtype = job
            name = f"{tool}-{model}-{dtype}"
            out = self.work / "sanitized" / name
            shutil.rmtree(out, ignore_errors=True)
            command = [sanitizer, "--tool", tool, "--error-exitcode", 9, "--print-limit", 20, *SANITIZERS[tool],
                       self.program("seqstream"), "embed", self.work / f"{model.split('-')[0]}.fasta", "--quiet",
                       "--model", self.work / "models" / model, "--out", out,
                       "--device", self.options.device, "--dtype", dtype]
            code, text, seconds = self.command(name, command, **(plain if tool == "racecheck" else {}))
            summary = re.findall(r"^=+ (.*SUMMARY.*)$", text, re.MULTILINE)
            # Then it has looked at nothing: a failure too, and the table says which.
            broken = re.findall(r"Internal Sanitizer Error.*", text)
            said = f"not checked: {broken[0].strip()}" if broken else summary[-1] if summary else text.strip()[-200:]
            if code not in (0, 9, None) and not broken:  # the program's own: then the summary is of little or nothing
                said = f"not checked: the program ended with {code}"
            rows.append({"tool": tool, "model": model, "dtype": dtype, "exit_code": code, "seconds": round(seconds, 1), "summary": said})
            print(f"{name}: {rows[-1]['summary']}, {seconds:.0f} s", flush=True)
            if code != 0 or broken:
                failures.append(f"{name}: {'out of time' if code is None else f'exit code {code}'}; {rows[-1]['summary']}")
                print("\n".join(text.splitlines()[:40]), flush=True)

        jobs = [(tool, model, dtype) for tool in tools for model in SMALL for dtype in self.options.dtypes]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(one, jobs))
        return failures

    def bench(self):
        failures = []
        mine = {(name, dtype) for name in self.options.models for dtype in self.options.dtypes}
        others_rows = [r for r in self.results.get("measurements", []) if (r["model"], r["dtype"]) not in mine]
        self.results["measurements"] = others_rows
        self.results.setdefault("torch", {})
        # The first dtype with all peers; then the others, of seqstream alone.
        first, *others = self.options.dtypes
        with_peers = lambda name: [] if name in self.options.peers_of else ["--peers", "seqstream,embed"]
        jobs = [(name, first, ["--rounds", 2, *with_peers(name)]) for name in self.options.models]
        others_take = ["--rounds", 2, "--program-rounds", 1, "--peers", "seqstream"]
        jobs += [(name, dtype, others_take) for dtype in others for name in self.options.models]
        for i, (name, dtype, more) in enumerate(jobs):
            # None takes the others' time: those with all peers most of it, each its share and what is left over.
            most = self.left() * (0.85 if others and i < len(self.options.models) else 1) / max(1, len(self.options.models) - i)
            out = self.work / f"bench-{name}-{dtype}.json"
            out.unlink(missing_ok=True)
            command = [sys.executable, PEERS / "gpu.py", "--models", self.work / "models", "--only", name, "--dtype", dtype,
                       "--seqstream", self.program("seqstream"), "--device", self.options.device, "--out", out, *more]
            command += self.options.bench_options.split()
            for option in ("proteins", "genomes"):
                if getattr(self.options, option):
                    command += [f"--{option}", getattr(self.options, option).resolve()]
            if dtype == first:
                command.append("--cold")
            code, text, seconds = self.command(f"bench-{name}-{dtype}", command, most)
            print("\n".join(text.splitlines()[-60:]), f"\n{name} {dtype}: {seconds:.0f} s", flush=True)
            if out.exists():
                found = json.loads(out.read_text())
                self.results["torch"] |= found["machine"]
                self.results["measurements"] += found["results"]
            if code != 0:
                failures.append(f"{name} {dtype}: {'out of time' if code is None else f'exit code {code}'}")
            self.write()
        return failures

    def kernels(self):
        """The benches of single products and kernels."""
        failures, arguments = [], {"gpu_gemm": ["--models", ",".join(self.options.models), "--rows", "4096,33792"]}
        for name in self.manifest["benches"]:
            code, text, seconds = self.command(name, [self.program(name), "--bench", *arguments.get(name, [])], REQUIRE_GPU="1")
            self.results.setdefault("kernels", {})[name] = text.splitlines()
            print(text[-6000:], f"\n{name}: {seconds:.0f} s", flush=True)
            if code != 0:
                failures.append(f"{name}: {'out of time' if code is None else f'exit code {code}'}")
        return failures


def golden(text):
    """What tests print of their errors against the golden files."""
    return re.findall(r"^\S+ \S+: at most .* of PyTorch's f32$", text, re.MULTILINE)


def machine(device):
    if device == "cpu":
        return {"device": "no GPU", "devices": 0, "driver": None, "memory": None, "cores": os.cpu_count()}
    said = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
                          capture_output=True, text=True).stdout.strip().splitlines()
    if not said:
        raise SystemExit("hardware/run: nvidia-smi names no GPU here")
    device, driver, memory = (part.strip() for part in said[0].split(","))
    return {"device": device, "devices": len(said), "driver": driver, "memory": memory, "cores": os.cpu_count()}


def limits(text):
    return {step: float(seconds) for step, seconds in (part.split("=") for part in text.split(","))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path, comma = pathlib.Path, lambda text: text.split(",")
    parser.add_argument("--pack", type=path, default=ROOT / "target" / "gpu-pack", help="what hardware/pack made")
    parser.add_argument("--only", type=comma, default=["tests", "check", "sanitize", "kernels", "bench"], help="steps, by comma")
    parser.add_argument("--models", type=comma, default=["650M", "3B", "dnabert-s"])
    parser.add_argument("--proteins", type=path, help="FASTA of proteins (default: random ones)")
    parser.add_argument("--genomes", type=path, help="FASTA of genomes (default: random bases)")
    parser.add_argument("--tokenizer", type=path, help="DNABERT's published tokenizer.json (default: the made-up one of "
                        "weights-tools, whose merges take longer)")
    parser.add_argument("--dtypes", type=comma, default=["f16", "bf16", "f32"], help="the first is measured against all peers")
    parser.add_argument("--peers-of", type=comma, default=["650M", "3B", "dnabert-s"],
                        help="models that PyTorch is measured on too; the others are seqstream's alone")
    parser.add_argument("--bench-options", default="", help="more options for benches/peers/gpu.py, in one word")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda",
                        help="cpu, with --dtypes f32: to try this command where there is no GPU")
    parser.add_argument("--limit", type=limits, default={}, help=f"seconds a step may take, such as check=60,bench=400 (default: {LIMITS})")
    parser.add_argument("--work", type=path, default=path("/tmp/seqstream-gpu"), help="models, logs, outputs")
    parser.add_argument("--results", type=path, default=ROOT / "benches" / "results")
    options = parser.parse_args()
    for step in [*options.only, *options.limit]:
        if step not in LIMITS:
            parser.error(f"no step {step}; there are {', '.join(LIMITS)}")
    run = Run(options)
    if "tests" in options.only:
        run.step("tests", run.tests)
    if {"models", "check", "sanitize", "bench"} & set(options.only):
        run.step("models", run.models)
    for name in ("check", "sanitize", "kernels", "bench"):
        if name in options.only:
            run.step(name, getattr(run, name))
    print("\n" + report.markdown(run.results))
    return 1 if any(step["failures"] for step in run.results["steps"]) else 0


if __name__ == "__main__":
    sys.exit(main())
