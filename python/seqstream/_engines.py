"""Embeds batches of tables, for engines that hand tables from worker to worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from ._model import Embedder

__all__ = ["BatchEmbedder"]


class BatchEmbedder:
    """A callable that adds embeddings to a batch: for Ray Data, Daft, Spark, Dask, or a loop of your own.

    The model is opened where the object is made, so an engine makes one object for each worker:

        ds.map_batches(seqstream.BatchEmbedder, fn_constructor_kwargs={"model": "esm2_650m", "device": "cuda"},
                       batch_size=1024, compute=ray.data.ActorPoolStrategy(size=4), num_gpus=1)

    Rows keep all their columns, so that an id travels with its embedding. Ray Data does not keep the order of rows.

    Args:
        model: What `Embedder` opens, or an `Embedder`.
        column: The column with the sequences.
        output: The column that is added.
        pool, layers, max_length, long, stride: As for `Embedder.embed`; one pooling and one layer.
        options: The other arguments of `Embedder`: `device`, `dtype` and others.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Embedder,
        column: str = "sequence",
        *,
        output: str = "embedding",
        pool: str = "mean",
        layers: int = -1,
        max_length: int | None = None,
        long: Any = None,
        stride: int | None = None,
        **options: Any,
    ) -> None:
        self.model = model if isinstance(model, Embedder) else Embedder(model, **options)
        self.column = column
        self.output = output
        self._embed: dict[str, Any] = {
            "pool": pool, "layers": layers, "max_length": max_length, "long": long, "stride": stride,
        }

    def __call__(self, batch: Any) -> Any:
        """Return the batch with its embeddings.

        Args:
            batch: A dict of columns, a pandas DataFrame, or a pyarrow Table.

        Returns:
            A batch of the same kind. The added column is float32 `[n, width]` in a dict, and a list column elsewhere.

        Raises:
            KeyError: The batch has no such column.
            InputError: A sequence cannot be embedded.
        """
        if self.column not in _columns(batch):
            raise KeyError(f"the batch has no column {self.column!r}, but {', '.join(map(str, _columns(batch)))}")
        if hasattr(batch, "column_names"):  # pyarrow
            import pyarrow as pa  # type: ignore[import-not-found, import-untyped, unused-ignore]

            rows = self._rows(batch.column(self.column).to_pylist())
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
            return batch.append_column(self.output, values)
        rows = self._rows([_text(value) for value in batch[self.column]])
        if isinstance(batch, MutableMapping):
            return {**batch, self.output: rows}
        if isinstance(batch, Mapping):
            return {**dict(batch), self.output: rows}
        return batch.assign(**{self.output: list(rows)})  # pandas

    def _rows(self, texts: list[Any]) -> Any:
        return self.model.embed(texts, **self._embed)


def _columns(batch: Any) -> list[Any]:
    if hasattr(batch, "column_names"):
        return list(batch.column_names)
    return list(batch.columns) if hasattr(batch, "columns") else list(batch.keys())


def _text(value: Any) -> Any:
    """Turn NumPy's own strings into Python's."""
    return value.item() if hasattr(value, "item") else value
