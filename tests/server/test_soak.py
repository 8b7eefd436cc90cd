"""After a long mixed load nothing is lost, nothing is wrong and nothing has grown."""

from __future__ import annotations

import pytest

from tests.server.soak import soak


@pytest.mark.slow
def test_long_mixed_load_leaves_every_answer_right_and_nothing_behind() -> None:
    outcome = soak(3000)
    assert outcome.report.wrong == []
    assert set(outcome.report.kinds) == {"complete", "wrong", "early", "midway", "abort"}
    assert outcome.grown_kb_per_1000 <= 1024
    assert outcome.threads_grown <= 2
    assert outcome.files_grown <= 2
