"""lm-eval: ``local-completions`` with the server's own tokenizer, on a task of local data."""

# /// script
# dependencies = ["lm-eval[api]>=0.4.13"]
# ///

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from harness import KEY, MODEL, URL, run

os.environ |= {"OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: FILE
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: gold
doc_to_choice: "{{choices}}"
metric_list:
  - metric: acc
"""
ROWS = [
    {"question": "What colour is the sky?", "choices": ["blue", "seven"], "gold": 0},
    {"question": "Two and two is?", "choices": ["four", "a horse", "blue"], "gold": 0},
    {"question": "What do fish live in?", "choices": ["water", "fire"], "gold": 0},
]


def check_multiple_choice() -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        (Path(folder) / "tiny.yaml").write_text(TASK.replace("FILE", str(data)))
        results = lm_eval.simple_evaluate(
            model="local-completions",
            model_args={
                "model": MODEL,
                "base_url": f"{URL}/v1/completions",
                "tokenizer_backend": "remote",
                "auth_token": KEY,
                "num_concurrent": 1,
                "max_retries": 1,
            },
            tasks=["tiny_choice"],
            task_manager=TaskManager(include_path=folder),
            log_samples=True,
        )
    samples = results["samples"]["tiny_choice"]
    assert len(samples) == len(ROWS)
    for sample in samples:
        scores = [float(score) for (score, _), *_ in sample["resps"]]
        assert all(score < 0 for score in scores)
    assert 0 <= results["results"]["tiny_choice"]["acc,none"] <= 1


if __name__ == "__main__":
    run(globals())
