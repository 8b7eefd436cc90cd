"""A time limit for reads: what would hang fails instead."""

import threading
from concurrent.futures import Future

import pytest

WAIT_S = 10


@pytest.fixture
def within():
    """Run work in a thread of its own; its result or exception, or a failure if it hangs."""

    def run(work):
        future = Future()

        def body():
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=body, daemon=True).start()
        try:
            return future.result(WAIT_S)
        except TimeoutError:
            if future.done():
                raise
            pytest.fail(f"it hangs: no end after {WAIT_S} s")

    return run
