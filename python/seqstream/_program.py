"""The command `seqstream`: the program itself, inside this package."""

from __future__ import annotations

import signal
import sys

from . import _native
from ._cublaslt import hand_over_folders


def main() -> None:
    """Run the program with the arguments of the command line, and end with its exit code."""
    # The program sets its own handlers. Python's handler would raise KeyboardInterrupt when the program has ended.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    hand_over_folders()
    sys.exit(_native.run_program(["seqstream", *sys.argv[1:]]))
