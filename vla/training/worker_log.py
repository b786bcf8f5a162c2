"""A worker's own words in `logs/rank<N>.log` of the state directory: warnings, tracebacks, and stacks of its threads.

A launcher may show none of a worker's messages (Ray) or those of all workers at once (torchrun); this is the place
that is the same under each. SIGSEGV, SIGFPE, SIGABRT, SIGBUS and SIGILL leave the stacks there, and so does a SIGUSR1,
after which the worker goes on: `kill -USR1 PID` shows where a training that hangs is waiting.
"""

import faulthandler
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from vla.errors import UserError
from vla.training.distributed import PeerLostError


@contextmanager
def kept(folder: Path, rank: int) -> Iterator[None]:
    """Write what happens to this process in the block to its file in `folder`, after what is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"rank{rank}.log").open("a", encoding="utf-8", buffering=1) as stream:
        stream.write(f"{time.strftime('%F %T')} rank {rank} is process {os.getpid()} on {socket.gethostname()}\n")
        with _warnings(stream), _stacks(stream):
            try:
                yield
            except (UserError, PeerLostError) as error:
                _write(stream, f"{error}\n")
                raise
            except Exception:
                _write(stream, traceback.format_exc())
                raise


def _write(stream: TextIO, text: str) -> None:
    with suppress(OSError):  # a full disk must not hide the error that is on its way
        stream.write(text)


@contextmanager
def _warnings(stream: TextIO) -> Iterator[None]:
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def _stacks(stream: TextIO) -> Iterator[None]:
    """Let the fault handler write there; afterwards it writes to stderr if it was on before."""
    before = faulthandler.is_enabled()
    faulthandler.enable(stream)
    faulthandler.register(signal.SIGUSR1, stream)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        faulthandler.disable()
        if before and sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)
