"""A model that embeds sequences."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from . import _native
from ._cublaslt import hand_over_folders
from ._errors import InputWarning, ModelWarning, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    _Array = NDArray[np.float32]

__all__ = ["Embedder", "Embedding", "Streams"]

# The letters that `iter_embed` takes at a time: enough batches to keep a GPU busy, and few enough for any machine.
_GROUP_LETTERS = 1 << 18
_GROUP_SEQUENCES = 1 << 13


class Embedding(NamedTuple):
    """One sequence of `Embedder.iter_embed`.

    Attributes:
        id: The name that the sequence was given with, or its position from 0 as text.
        pooled: float32 `[width]`, or `[pools, width]` with several poolings; a dict by layer with several layers;
            None with `pool=None`.
        states: float32 `[tokens, width]`, a dict by layer with several layers; None unless `per_token`.
    """

    id: str
    pooled: Any
    states: Any


class Streams:
    """What a CUDA model does on its streams. On the CPU there are none."""

    def __init__(self, native: _native.Model) -> None:
        self._native = native

    def status(self) -> list[dict[str, Any]]:
        """Return the streams: a list of dicts with `device`, `kind`, `index` and `busy`. It never waits for a device.

        Raises:
            DeviceError: The work of a stream has failed.
        """
        names = ("device", "kind", "index", "busy")
        return [dict(zip(names, stream)) for stream in self._native.streams()]

    def trace(self) -> dict[str, Any]:
        """Return the trace of the last call in the schema `seqstream-trace` (docs/overlap.md): `events`, `clocks`...

        Raises:
            UsageError: The model was opened without `trace=True`.
        """
        text = self._native.trace()
        if text is None:
            raise UsageError("the model records no trace", "open it with trace=True", 2)
        return dict(json.loads(text))

    def save_trace(self, path: str | os.PathLike[str]) -> tuple[str, str]:
        """Write the trace of the last call as `seqstream embed --trace` does, and return the paths of the two files.

        The first file is for Perfetto and HolisticTraceAnalysis, the second one, which ends in `.seqstream.json`, is
        in the schema of `trace`.
        """
        self.trace()  # raises if there is none
        path = os.fspath(path)
        own = (path[: -len(".json")] if path.endswith(".json") else path) + ".seqstream.json"
        self._native.save_trace(path, own)
        return path, own


class Embedder:
    """A model on its devices.

    Several threads may use one model: their calls are computed one after the other, and Python goes on meanwhile,
    because no call holds the GIL while it computes. Ctrl-C ends a call at once and leaves the model usable. A pickled
    model opens the same model anew where it is loaded, which is how Ray, Dask and Spark bring it to their workers.

    Args:
        path: A model folder (Hugging Face), a file (.safetensors, .bin, fair-esm .pt), a name on the Hugging Face Hub
            such as "facebook/esm2_t33_650M_UR50D", or a short name such as "esm2_650m".
        device: "cpu", "cuda" (every CUDA device), or some, such as "cuda:0,2".
        dtype: "f32", "f16" or "bf16". None means f32 on the CPU, which computes in nothing else, and f16 on CUDA.
        revision: A branch, tag or commit of a model on the Hub.
        cache_dir: The cache of the Hub; None means what the environment says (HF_HOME and others).
        local_files_only: Whether downloading is forbidden.
        threads: The number of CPU threads; None means all cores.
        token_budget: Tokens that are computed at once. It affects speed and memory, never a result.
        weights: "auto", "resident" or "streamed", for CUDA: see `seqstream embed --weights`.
        overlap: Whether loading, computing and storing overlap on a CUDA device.
        trace: Whether `streams.trace()` gives a trace of the last call.

    Raises:
        UsageError: An argument is wrong.
        ModelError: The model cannot be found or used.
        DownloadError: The model could not be downloaded.
        DeviceError: The device cannot be used, or the model does not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        dtype: Literal["f32", "f16", "bf16"] | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        threads: int | None = None,
        token_budget: int | None = None,
        weights: str = "auto",
        overlap: bool = True,
        trace: bool = False,
    ) -> None:
        self._arguments = {
            "path": os.fspath(path),
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "cache_dir": None if cache_dir is None else os.fspath(cache_dir),
            "local_files_only": local_files_only,
            "threads": threads,
            "token_budget": token_budget,
            "weights": weights,
            "overlap": overlap,
            "trace": trace,
        }
        self._name = os.fspath(path) if revision is None else f"{os.fspath(path)}@{revision}"
        self._options = _flags(
            device=device, dtype=dtype, threads=threads, token_budget=token_budget, weights=weights,
            streams="on" if overlap else "off",
        )
        if device.startswith("cuda"):
            hand_over_folders()
        self._native = _native.Model(self._name, cache_dir, local_files_only, trace, self._options)
        self._counts: dict[str, int] = {}
        self._warn_of_model(stacklevel=2)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self._arguments)

    def __repr__(self) -> str:
        return f"seqstream.Embedder({self._name!r}, device={self._arguments['device']!r})"

    @property
    def width(self) -> int:
        """The length of a row, and of the state of a token."""
        return int(self.config["hidden"])

    @property
    def config(self) -> dict[str, Any]:
        """The sizes of the model: `kind`, `layers`, `hidden`, `heads` and others."""
        return dict(json.loads(self._native.config()))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the bits of the results: two models of equal identity give equal bits.

        The keys are `seqstream`, `model` (the BLAKE3 of the weights, which are read to the end for it once), `device`,
        `processor`, `dtype` and `gemm_algorithms`, as in job.json.
        """
        return dict(json.loads(self._native.identity()))

    @property
    def streams(self) -> Streams:
        """The streams of a CUDA model, and the trace of the last call."""
        return Streams(self._native)

    @property
    def counts(self) -> dict[str, int]:
        """What cleaning met in the last call of this model: `lowercase`, `unknown`, `gaps`, `truncated` and others."""
        return dict(self._counts)

    def embed(
        self,
        sequences: str | bytes | Iterable[str | bytes],
        *,
        pool: str | Sequence[str] = "mean",
        layers: int | str | Sequence[int] = -1,
        per_token: bool = False,
        max_length: int | None = None,
        long: Literal["truncate", "window", "error"] | None = None,
        stride: int | None = None,
        normalize: bool = False,
        clean: bool = True,
        gaps: Literal["keep", "drop"] = "keep",
        strict: bool = False,
    ) -> Any:
        """Embed sequences. The bits are those of `seqstream embed` on the same device.

        Args:
            sequences: One sequence, or several. Text is cleaned as the program does it (docs/input.md).
            pool: "mean" (over residues, for DNA over tokens), "max", "cls", or a list of these.
            layers: A layer, a list of layers, or "all": 0 is the embedding, -1 the last layer.
            per_token: Whether to return the states of the tokens instead of pooled rows: those that the mean includes.
            max_length: The most residues (ESM-2) or BPE tokens (DNABERT) of a sequence.
            long: What becomes of a longer sequence: it is cut ("truncate", the default), averaged over windows
                ("window"), or refused ("error").
            stride: The tokens from one window to the next; None means max_length.
            normalize: Whether each row is divided by its Euclidean length.
            clean: Whether text is upper-cased and cleaned.
            gaps: Whether "-" and "." are kept or dropped.
            strict: Whether text that would be cleaned is refused.

        Returns:
            For several sequences float32 `[n, width]`, with a list of poolings `[n, pools, width]`. For one sequence
            the first axis is missing. With `per_token`, a list of float32 `[tokens, width]`, or for one sequence that
            array. With a list of layers or "all", a dict that has this for each layer.

        Raises:
            InputError: A sequence cannot be embedded: it is empty, too long, or refused by `strict`.
            UsageError: An argument is wrong.
            DeviceError: The device failed.
        """
        one = isinstance(sequences, (str, bytes))
        texts = [sequences] if one else list(sequences)
        names = ["the sequence"] if one else None
        what = "none" if per_token else pool
        flags = self._what(what, layers, per_token, max_length, long, stride, clean, gaps, strict)
        result, counts = self._native.start(texts, names, flags).result()
        self._notice(counts, len(texts), gaps, stacklevel=2)
        pools = _count(pool)
        by_layer: dict[int, Any] = {}
        for number, pooled, states in result:
            if per_token:
                arrays = [_array(values) for values in states]
                by_layer[number] = arrays[0] if one else arrays
                continue
            rows = _rows(pooled, pools)
            rows = _normalized(rows) if normalize else rows
            by_layer[number] = rows[0] if one else rows
        return _of_layers(by_layer, layers)

    def iter_embed(
        self,
        records: Iterable[Any],
        *,
        pool: str | Sequence[str] | None = "mean",
        layers: int | str | Sequence[int] = -1,
        per_token: bool = False,
        max_length: int | None = None,
        long: Literal["truncate", "window", "error"] | None = None,
        stride: int | None = None,
        clean: bool = True,
        gaps: Literal["keep", "drop"] = "keep",
        strict: bool = False,
    ) -> Iterator[Embedding]:
        """Embed a stream of sequences of any length, in its order and in bounded memory.

        While the caller uses the results of one group of records, the next group is computed.

        Args:
            records: An iterable of sequences, of pairs `(id, sequence)`, of dicts with `id` and `sequence` (or `seq`),
                or of objects with the attributes `id` and `seq`, such as those of Biopython.
            pool: As for `embed`; None for states alone.
            per_token: Whether each result has states too.

        The other arguments and the errors are those of `embed`.

        Yields:
            One `Embedding` for each record.
        """
        flags = self._what(
            "none" if pool is None else pool, layers, per_token, max_length, long, stride, clean, gaps, strict
        )
        pools = None if pool is None else _count(pool)
        total: dict[str, int] = {}
        waiting: tuple[list[str], _native.Pending] | None = None
        for ids, texts in _groups(records):
            started = (ids, self._native.start(texts, ids, flags))
            if waiting is not None:
                yield from self._finished(waiting, pool, pools, layers, per_token, total)
            waiting = started
        if waiting is not None:
            yield from self._finished(waiting, pool, pools, layers, per_token, total)
        self._notice(total, total.get("records", 0), gaps, stacklevel=2)

    def _finished(
        self,
        waiting: tuple[list[str], _native.Pending],
        pool: str | Sequence[str] | None,
        pools: int | None,
        layers: int | str | Sequence[int],
        per_token: bool,
        total: dict[str, int],
    ) -> Iterator[Embedding]:
        ids, pending = waiting
        result, counts = pending.result()
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
        total["records"] = total.get("records", 0) + len(ids)
        rows = {
            number: None if pool is None else _rows(pooled, pools)
            for number, pooled, _ in result
        }
        for i, name in enumerate(ids):
            pooled = None
            if pool is not None:
                # A copy: a row that is kept must not keep the rows of its whole group.
                pooled = _of_layers({n: r[i].copy() for n, r in rows.items() if r is not None}, layers)
            states = None
            if per_token:
                states = _of_layers({number: _array(values[i]) for number, _, values in result}, layers)
            yield Embedding(name, pooled, states)

    def embed_fasta(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        out: str | os.PathLike[str],
        *,
        resume: bool = False,
        share: str | None = None,
        pool: str | Sequence[str] = "mean",
        layers: int | str | Sequence[int] = -1,
        per_token: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Run the job of `seqstream embed` on FASTA or FASTQ files, plain or compressed: the same files, byte for byte.

        Ctrl-C stops the job after the shard in hand, and a second Ctrl-C at once; `resume=True` goes on. The memory of
        a CUDA device that this model holds is freed for the job.

        Args:
            inputs: A file, or several.
            out: The output directory, which `seqstream.open` reads.
            resume: Whether to go on with the job in `out`.
            share: "i/n" computes one of n shares, which `seqstream merge` joins.
            options: Any other option of `seqstream embed`, with underscores: `max_length`, `shard_size`,
                `output_dtype`, `bad_records`, `trace` and others.

        Returns:
            The content of manifest.json, without its list of shards.

        Raises:
            InputError, OutputError, ResumeError and the errors of `Embedder`.
        """
        files = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
        model = str(self._native.path) if self._arguments["cache_dir"] is not None else self._name
        flags = self._what(pool, layers, per_token)
        flags += self._options + _flags(resume=resume, share=share, **options)
        if self._native.on_cuda:
            self._native.unload()
        args = ["seqstream", "embed", "--model", model, "--out", os.fspath(out), *flags, "--"]
        for warning in _native.run_job([*args, *(os.fspath(file) for file in files)]):
            warnings.warn(_without_flags(warning), InputWarning, stacklevel=2)
        with open(os.path.join(out, "manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        manifest.pop("shards", None)
        return dict(manifest)

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding", "token_embeddings"] = "sentence_embedding",
        precision: Literal["float32"] = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        **options: Any,
    ) -> Any:
        """Embed like `SentenceTransformer.encode`, so that this model can take its place.

        `batch_size`, `show_progress_bar` and `device` are accepted and change nothing: the engine packs batches by
        their tokens, and the model has its device. Other options are those of `embed`.

        Returns:
            float32 `[n, width]`, or `[width]` for one text; lists of `[tokens, width]` with
            `output_value="token_embeddings"`; torch tensors with `convert_to_tensor`; a list of rows without
            `convert_to_numpy`.

        Raises:
            UsageError: A prompt or a precision is asked for, which this model does not have.
        """
        if prompt is not None or prompt_name is not None:
            raise UsageError("the models read sequences and have no prompts", "leave the prompt out", 2)
        if precision != "float32":
            raise UsageError(f"precision={precision!r} is not available", "leave precision out", 2)
        if output_value not in ("sentence_embedding", "token_embeddings"):
            raise UsageError(
                f"output_value={output_value!r} is not available",
                'give "sentence_embedding" or "token_embeddings"',
                2,
            )
        per_token = output_value == "token_embeddings"
        rows = self.embed(sentences, per_token=per_token, normalize=normalize_embeddings, **options)
        if convert_to_tensor:
            import torch  # type: ignore[import-not-found, unused-ignore]

            return [torch.from_numpy(r) for r in rows] if isinstance(rows, list) else torch.from_numpy(rows)
        if not convert_to_numpy and not isinstance(sentences, str):
            return list(rows)
        return rows

    def get_sentence_embedding_dimension(self) -> int:
        """The width of a row, by the name that sentence-transformers gives it."""
        return self.width

    def tokenize(self, sequences: str | bytes | Iterable[str | bytes], *, clean: bool = True) -> Any:
        """Return the token ids of one sequence as a list, or a list for each of several, special tokens included.

        Args:
            sequences: One sequence, or several.
            clean: Whether text is cleaned first; without it the ids are those of Hugging Face for the same text.

        Raises:
            InputError: A sequence is empty.
        """
        one = isinstance(sequences, (str, bytes))
        texts = [sequences] if one else list(sequences)
        ids = self._native.tokenize(texts, _flags(clean="on" if clean else "off"))
        return ids[0] if one else ids

    def _what(
        self,
        pool: str | Sequence[str],
        layers: int | str | Sequence[int],
        per_token: bool,
        max_length: int | None = None,
        long: str | None = None,
        stride: int | None = None,
        clean: bool = True,
        gaps: str = "keep",
        strict: bool = False,
    ) -> list[str]:
        several = not isinstance(layers, (int, str))
        return _flags(
            pool=pool if isinstance(pool, str) else ",".join(pool),
            layers=",".join(str(int(layer)) for layer in layers) if several else str(layers),  # type: ignore[union-attr]
            per_token=per_token,
            max_length=max_length,
            long=long,
            stride=stride,
            clean=None if clean else "off",
            gaps=None if gaps == "keep" else gaps,
            strict=strict,
        )

    def _warn_of_model(self, stacklevel: int) -> None:
        for warning in self._native.take_warnings():
            warnings.warn(warning, ModelWarning, stacklevel=stacklevel + 1)

    def _notice(self, counts: dict[str, int], sequences: int, gaps: str, stacklevel: int) -> None:
        """Keep the counts, and warn of what the program warns of too."""
        self._counts = counts
        self._warn_of_model(stacklevel + 1)
        protein = self.config["kind"] == "esm2"
        said = []
        if counts.get("other_alphabet"):
            found, reads = ("DNA", "proteins") if protein else ("proteins", "DNA")
            said.append(
                f"this looks like {found}, and the model reads {reads} "
                f"({counts['other_alphabet']} of {sequences} sequences)"
            )
        if counts.get("gaps") and gaps == "keep":
            tokens = (
                "ESM-2 has tokens for gaps but was not trained on alignments"
                if protein
                else "they become unknown tokens"
            )
            said.append(f'gap characters are kept ({counts["gaps"]}): {tokens}; gaps="drop" removes them')
        if counts.get("chain_breaks"):
            said.append(
                f"colons between chains become unknown tokens ({counts['chain_breaks']}): embed each chain by itself"
            )
        for text in said:
            warnings.warn(text, InputWarning, stacklevel=stacklevel + 1)


def _reopen(kind: type[Embedder], arguments: dict[str, Any]) -> Embedder:
    return kind(arguments.pop("path"), **arguments)


def _flags(**options: Any) -> list[str]:
    """Write options as the command line has them: `max_length=5` becomes `--max-length=5`."""
    flags = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags.append(f"{flag}={os.fspath(value) if isinstance(value, os.PathLike) else value}")
    return flags


def _without_flags(text: str) -> str:
    import re

    return re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), text)


def _count(pool: str | Sequence[str]) -> int | None:
    """Return how many poolings there are, each once; None for a single one that is no list."""
    return None if isinstance(pool, str) else len(dict.fromkeys(pool))


def _array(values: _native.Values) -> _Array:
    """Make an array of the memory of the values, without a copy."""
    import numpy as np

    return np.asarray(values)  # type: ignore[no-any-return, unused-ignore]


def _rows(pooled: _native.Values, pools: int | None) -> _Array:
    """Make `[n, pools, width]`, or `[n, width]` for one pooling that is no list."""
    rows = _array(pooled)
    return rows[:, 0] if pools is None else rows


def _normalized(rows: _Array) -> _Array:
    import numpy as np

    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    rows /= np.maximum(lengths, np.float32(1e-12))
    return rows


def _of_layers(by_layer: dict[int, Any], layers: int | str | Sequence[int]) -> Any:
    """Give the only value where one layer was asked for, and else the dict."""
    if isinstance(layers, int) or (isinstance(layers, str) and layers != "all"):
        return next(iter(by_layer.values())) if len(by_layer) == 1 else by_layer
    return by_layer


def _groups(records: Iterable[Any]) -> Iterator[tuple[list[str], list[str | bytes]]]:
    ids: list[str] = []
    texts: list[str | bytes] = []
    letters = 0
    for i, record in enumerate(records):
        name, text = _record(record, i)
        ids.append(name)
        texts.append(text)
        letters += len(text)
        if letters >= _GROUP_LETTERS or len(texts) >= _GROUP_SEQUENCES:
            yield ids, texts
            ids, texts, letters = [], [], 0
    if texts:
        yield ids, texts


def _record(record: Any, i: int) -> tuple[str, str | bytes]:
    if isinstance(record, (str, bytes)):
        return str(i), record
    if isinstance(record, Mapping):
        text = record["sequence"] if "sequence" in record else record["seq"]
        return str(record.get("id", i)), text
    if isinstance(record, (tuple, list)) and len(record) == 2:
        return str(record[0]), record[1]
    if hasattr(record, "seq"):
        return str(getattr(record, "id", i)), str(record.seq)
    raise TypeError(
        f"record {i} is a {type(record).__name__}: give sequences, pairs (id, sequence), dicts with id and sequence, "
        "or objects with id and seq"
    )
