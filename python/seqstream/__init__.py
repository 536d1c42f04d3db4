"""Embeddings of protein and DNA sequences by ESM-2 and DNABERT-S.

>>> import seqstream
>>> model = seqstream.Embedder("facebook/esm2_t6_8M_UR50D")
>>> model.embed(["MKTAYIAKQRQISFVKSHFSRQ", "GAVLIPFYW"]).shape
(2, 320)

Importing this package needs neither a GPU nor a driver, and imports neither NumPy nor PyTorch: NumPy is imported with
the first result.
"""

from ._engines import BatchEmbedder
from ._errors import (
    DeviceError,
    DownloadError,
    InputError,
    InputWarning,
    ModelError,
    ModelWarning,
    OutputError,
    ResumeError,
    SeqstreamError,
    UsageError,
)
from ._model import Embedder, Embedding, Streams
from ._native import __version__
from ._output import Output, open

__all__ = [
    "BatchEmbedder",
    "DeviceError",
    "DownloadError",
    "Embedder",
    "Embedding",
    "InputError",
    "InputWarning",
    "ModelError",
    "ModelWarning",
    "Output",
    "OutputError",
    "ResumeError",
    "SeqstreamError",
    "Streams",
    "UsageError",
    "__version__",
    "open",
]
