"""The engine on tiny random models of every architecture, against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sgrt.backends.local import Engine
from sgrt.core import Generate, SamplingParams
from tests.models.tiny import tiny_model_dir

PROMPTS = [[5, 6, 7], list(range(40, 75)), [9], list(range(60, 90))]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


def _reference(folder: Path, prompt: list[int], num: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    token_ids = list(prompt)
    with torch.no_grad():
        for _ in range(num):
            token_ids.append(int(model(torch.tensor([token_ids])).logits[0, -1].argmax()))
    return token_ids[len(prompt) :]


@pytest.mark.parametrize("arch", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("device", DEVICES)
def test_greedy_tokens_of_a_mixed_batch_equal_those_of_transformers(
    arch: str, device: str, tmp_path: Path
) -> None:
    folder = tiny_model_dir(tmp_path, arch)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    with Engine(
        str(folder),
        device=device,
        precision="float32",
        kv_tokens=512,
        max_step_tokens=16,
        num_threads=1,
    ) as engine:
        sessions = [engine.open() for _ in PROMPTS]
        handles = []
        for session, prompt in zip(sessions, PROMPTS, strict=True):
            session.extend_ids(prompt)
            handles += session.generate([Generate(params=params)])
        for prompt, handle in zip(PROMPTS, handles, strict=True):
            assert list(handle.result(60).token_ids) == _reference(folder, prompt, 12)
