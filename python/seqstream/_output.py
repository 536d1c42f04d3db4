"""Reads the output of a job."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ._errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Output", "open"]

# The size of the length at the start of a safetensors file.
_HEAD = 8


def open(path: str | os.PathLike[str]) -> Output:
    """Open the output directory of `seqstream embed`, `merge` or `Embedder.embed_fasta`.

    Nothing is loaded yet: rows and states are mapped when they are asked for.

    Raises:
        OutputError: The directory holds no job, its job is not complete, or a file is missing or has another size than
            the manifest says.
    """
    return Output(path)


class Output:
    """The complete output of a job: a sequence of rows, with names.

    Attributes:
        path: The directory.
        job: What the job was asked: the content of job.json.
        ids: The names of the sequences, in the order of the input.
    """

    path: str
    job: dict[str, Any]
    ids: list[str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        manifest = self._manifest()
        self.job = manifest["job"]
        self._shards: list[str] = [shard["name"] for shard in manifest["shards"]]
        self._manifest_head = {name: value for name, value in manifest.items() if name != "shards"}
        self.ids = []
        self._starts = [0]
        for shard in manifest["shards"]:
            for name, entry in shard["files"].items():
                self._check(os.path.join(self.path, shard["name"], name), entry["bytes"])
            with builtins.open(os.path.join(self.path, shard["name"], "ids.txt"), encoding="utf-8", newline="\n") as f:
                self.ids.extend(f.read().split("\n")[:-1])
            self._starts.append(len(self.ids))
        self._positions: dict[str, list[int]] | None = None
        self._mapped: dict[str, Any] = {}

    def _manifest(self) -> dict[str, Any]:
        path = os.path.join(self.path, "manifest.json")
        try:
            with builtins.open(path, encoding="utf-8") as file:
                manifest = json.load(file)
            return {**manifest, "job": dict(manifest["job"]), "shards": list(manifest["shards"])}
        except FileNotFoundError:
            if os.path.exists(os.path.join(self.path, "job.json")):
                raise OutputError(
                    f"the job in {self.path} is not complete", "call embed_fasta again with resume=True", 5
                ) from None
            raise OutputError(f"{self.path} holds no output of a job", "check the path", 5) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path} cannot be read: {error}", "compute it again, or check the disk", 5) from error

    @staticmethod
    def _check(path: str, size: int) -> None:
        try:
            found = os.path.getsize(path)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be read: {error.strerror}", "call embed_fasta again with resume=True", 5
            ) from error
        if found != size:
            raise OutputError(
                f"{path} has {found} bytes, and the manifest says {size}",
                "call embed_fasta again with resume=True, which computes the shard again",
                5,
            )

    def __repr__(self) -> str:
        return f"<seqstream.Output {self.path!r}: {len(self)} sequences, layers {self.layers}>"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json without its list of shards: counts, hashes, skipped records."""
        return dict(self._manifest_head)

    @property
    def layers(self) -> list[int]:
        """The layers, in the order in which the job was asked for them."""
        return [int(layer) for layer in self.job["layers"]]

    @property
    def pools(self) -> list[str]:
        """The poolings; empty where there are only states."""
        pools = str(self.job["pool"])
        return [] if pools == "none" else pools.split(",")

    @property
    def width(self) -> int:
        """The length of a row."""
        return int(self.job["model"]["config"]["hidden"])

    @property
    def duplicates(self) -> dict[str, list[int]]:
        """The names that several sequences share, with the positions of these sequences."""
        return {name: list(at) for name, at in self._by_name().items() if len(at) > 1 and name in self._own_names}

    def index(self, name: str) -> int:
        """Return the position of the sequence with this name: the whole name, or the accession in `sp|P12345|NAME`.

        Raises:
            KeyError: No sequence has the name, or several have it.
        """
        at = self._by_name().get(name, [])
        if len(at) == 1:
            return at[0]
        if not at:
            raise KeyError(f"no sequence is named {name!r}")
        shown = ", ".join(str(i) for i in at[:5])
        raise KeyError(f"{len(at)} sequences are named {name!r}: use their positions ({shown}{', ...' * (len(at) > 5)})")

    def _by_name(self) -> dict[str, list[int]]:
        if self._positions is None:
            positions: dict[str, list[int]] = {}
            for i, name in enumerate(self.ids):
                positions.setdefault(name, []).append(i)
            self._own_names = set(positions)
            for i, name in enumerate(self.ids):
                parts = name.split("|")
                # A whole name goes before an accession.
                if len(parts) == 3 and parts[1] not in self._own_names:
                    positions.setdefault(parts[1], []).append(i)
            self._positions = positions
        return self._positions

    def __getitem__(self, key: int | str) -> Any:
        """Return the row of a sequence, by its position or name: `[width]` of the last named layer and first pooling.

        Raises:
            KeyError: No sequence has the name, or several have it.
            IndexError: There is no such position.
            OutputError: The job made no pooled rows.
        """
        shard, row = self._place(key)
        return self._rows(shard, self._layer(None), self._pool(None))[row]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def numpy(self, layer: int | None = None, pool: str | None = None) -> NDArray[Any]:
        """Return the rows of all sequences as `[n, width]`, in the order of the input, in the job's output dtype.

        Args:
            layer: The layer; negative numbers count from the end of the model. None means the last one in `layers`.
            pool: The pooling; None means the first one.

        Raises:
            KeyError: The job did not compute the layer or the pooling.
            OutputError: The job made no pooled rows.
        """
        import numpy as np

        layer, pool = self._layer(layer), self._pool(pool)
        parts = [self._rows(shard, layer, pool) for shard in range(len(self._shards))]
        rows: NDArray[Any] = np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)
        return rows

    def states(self, key: int | str, layer: int | None = None) -> NDArray[Any]:
        """Return the states of the tokens of a sequence, `[tokens, width]`, mapped from the file.

        Raises:
            KeyError, IndexError: There is no such sequence or layer.
            OutputError: The job kept no states.
        """
        if not self.job["per_token"]:
            raise OutputError(
                f"the job in {self.path} kept no states of tokens", "compute it with per_token=True in another out", 5
            )
        shard, row = self._place(key)
        states, offsets = self._states(shard, self._layer(layer))
        of_sequence: NDArray[Any] = states[int(offsets[row]) : int(offsets[row + 1])]
        return of_sequence

    def to_anndata(self, layer: int | None = None) -> Any:
        """Return an AnnData with the rows as `X` and the names as `obs_names`. It needs the package anndata."""
        import anndata  # type: ignore[import-not-found, unused-ignore]
        import pandas as pd  # type: ignore[import-untyped, import-not-found, unused-ignore]

        return anndata.AnnData(X=self.numpy(layer), obs=pd.DataFrame(index=self.ids))

    def to_hdf5(self, path: str | os.PathLike[str], layer: int | None = None) -> None:
        """Write the rows as UniProt does: a dataset `[width]` for each name. It needs the package h5py.

        Raises:
            KeyError: Several sequences share a name, which HDF5 does not allow.
        """
        import h5py  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if self.duplicates:
            raise KeyError(f"sequences share names: {', '.join(list(self.duplicates)[:5])}")
        rows = self.numpy(layer)
        with h5py.File(path, "w") as file:
            for name, row in zip(self.ids, rows):
                file.create_dataset(name.replace("/", "_"), data=row)

    def _place(self, key: int | str) -> tuple[int, int]:
        import bisect
        import operator

        i = self.index(key) if isinstance(key, str) else operator.index(key)
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"position {i} of {n} sequences")
        i %= n
        shard = bisect.bisect_right(self._starts, i) - 1
        return shard, i - self._starts[shard]

    def _layer(self, layer: int | None) -> int:
        if layer is None:
            return self.layers[-1]
        layer = int(layer)
        if layer < 0:
            layer += int(self.job["model"]["config"]["layers"]) + 1
        if layer not in self.layers:
            raise KeyError(f"the job has the layers {self.layers}, not {layer}")
        return layer

    def _pool(self, pool: str | None) -> str:
        if not self.pools:
            raise OutputError(f"the job in {self.path} made no pooled rows", "use states()", 5)
        if pool is None:
            return self.pools[0]
        if pool not in self.pools:
            raise KeyError(f"the job has the poolings {self.pools}, not {pool!r}")
        return pool

    def _rows(self, shard: int, layer: int, pool: str) -> Any:
        import numpy as np

        name = f"layer_{layer}.npy" if len(self.pools) == 1 else f"layer_{layer}_{pool}.npy"
        path = os.path.join(self.path, self._shards[shard], name)
        if path not in self._mapped:
            rows = np.load(path, mmap_mode="r")
            wanted = (self._starts[shard + 1] - self._starts[shard], self.width)
            if rows.shape != wanted:
                raise OutputError(f"{path} has the shape {rows.shape}, not {wanted}", "compute the shard again", 5)
            self._mapped[path] = rows
        return self._mapped[path]

    def _states(self, shard: int, layer: int) -> tuple[Any, Any]:
        import numpy as np

        path = os.path.join(self.path, self._shards[shard], f"layer_{layer}.safetensors")
        if path not in self._mapped:
            with builtins.open(path, "rb") as file:
                length = int.from_bytes(file.read(_HEAD), "little")
                header = json.loads(file.read(length))
            dtypes = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U64": np.uint64}

            def tensor(name: str) -> Any:
                entry = header[name]
                start, end = entry["data_offsets"]
                shape = tuple(entry["shape"])
                if start == end:
                    return np.empty(shape, dtypes[entry["dtype"]])
                return np.memmap(path, dtypes[entry["dtype"]], "r", _HEAD + length + start, shape)

            self._mapped[path] = (tensor("states"), tensor("offsets"))
        return self._mapped[path]  # type: ignore[no-any-return]
