"""Files that are there after a crash, also of the machine.

Architecture invariant: this module imports nothing of sgrt.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Make sure that what was written to a file is there after a crash."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Make sure that a file is found under its name after a crash."""
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError:  # folders cannot be opened on this system
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
