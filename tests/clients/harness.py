"""What the client scripts share; standard library only, since each runs in its own environment."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

URL = os.environ["SGRT_URL"]
KEY = os.environ["SGRT_KEY"]
MODEL = os.environ.get("SGRT_MODEL", "smollm2-135m-instruct")
QUESTION = "Ada Lovelace was born in London in 1815. Extract the person."
MESSAGES = [{"role": "user", "content": QUESTION}]


def run(names: Mapping[str, Any]) -> None:
    """Call every ``check_*`` function; exit with 1 where one raises."""
    checks: list[Callable[[], None]] = [f for n, f in names.items() if n.startswith("check_")]
    failed = 0
    for check in checks:
        began = time.perf_counter()
        try:
            check()
            said = "ok"
        except Exception:
            traceback.print_exc()
            failed += 1
            said = "FAILED"
        title = check.__name__.removeprefix("check_").replace("_", " ")
        print(f"  {said:6} {time.perf_counter() - began:6.1f} s  {title}", flush=True)
    sys.exit(1 if failed else 0)


def raised(kind: type[BaseException], call: Callable[[], Any]) -> Any:
    """The error of this kind that a call raises."""
    try:
        value = call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {value!r:.200}")
