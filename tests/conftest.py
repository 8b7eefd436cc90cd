"""What every test shares: one torch thread, and the real model."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

if importlib.util.find_spec("torch") is not None:
    import torch

    torch.set_num_threads(1)

REQUIRE_MODEL = "SGRT_REQUIRE_MODEL"
"""Set by `make test`: a missing model is then a failure, never a skip."""


def _missing_model(error: Exception) -> NoReturn:
    reason = f"the embedded model is not here; fetch it with: sgrt pull ({error})"
    if os.environ.get(REQUIRE_MODEL) == "1":
        pytest.fail(f"{REQUIRE_MODEL}=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct; fetched by `sgrt pull`, never by a test."""
    from sgrt.errors import ModelError
    from sgrt.models import hub

    try:
        return hub.resolve(None, fetch=False).path
    except ModelError as error:
        _missing_model(error)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, though a shell that starts tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
