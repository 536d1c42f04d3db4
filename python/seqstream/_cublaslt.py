"""Tells the engine where NVIDIA's Python packages keep cuBLASLt."""

from __future__ import annotations

import os
import sys

from . import _native

# nvidia-cublas (CUDA 13) and nvidia-cublas-cu12.
_FOLDERS = ("nvidia/cu13/lib", "nvidia/cublas/lib")
_handed_over: list[str] = []


def hand_over_folders() -> list[str]:
    """Hand over every folder of `sys.path` that has cuBLASLt, and return all that were handed over.

    The engine itself searches the environment that is activated. A Python that is started by its path has none.
    """
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for base in [own, *sys.path]:
        for folder in _FOLDERS:
            path = os.path.join(base, folder)
            if path not in _handed_over and os.path.isdir(path):
                _native.look_in(path)
                _handed_over.append(path)
    return list(_handed_over)
