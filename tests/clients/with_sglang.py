"""SGLang's own frontend and public test kits, out of its wheel.

Importing ``sglang`` as a whole needs torch and CUDA packages; its frontend and its kits, which
ask a server, do not. What they import of the rest is stood in for here.
"""

# /// script
# dependencies = [
#   "numpy", "requests", "tqdm", "aiohttp", "msgspec", "pydantic", "pybase64", "IPython", "openai>=2",
# ]
# [tool.sgrt]
# without-dependencies = ["sglang==0.5.23"]
# ///

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import random
import sys
import types
import unittest
import unittest.mock

import aiohttp
import requests
from harness import KEY, MODEL, URL, run


def _stand_in() -> None:
    spec = importlib.util.find_spec("sglang")
    package = types.ModuleType("sglang")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["sglang"] = package
    utils = types.ModuleType("sglang.srt.utils")
    utils.is_hip = lambda: False
    sys.modules["sglang.srt.utils"] = utils
    for name in ("api", "choices", "global_config", "backend.runtime_endpoint"):
        module = importlib.import_module(f"sglang.lang.{name}")
        for key in getattr(module, "__all__", None) or vars(module):
            if not key.startswith("_"):
                setattr(package, key, getattr(module, key))


_stand_in()
import sglang as sgl  # noqa: E402

HEADERS = {**requests.utils.default_headers(), "authorization": f"Bearer {KEY}"}
backend = sgl.RuntimeEndpoint(URL, api_key=KEY)
sgl.set_default_backend(backend)


# ---------------------------------------------------------------- the frontend


@sgl.function
def answer(s, question):
    s += "Q: " + question + "\nA:" + sgl.gen("answer", max_tokens=12, stop="\n", temperature=0)


@sgl.function
def colour(s, thing, method):
    s += f"The colour of {thing} is"
    s += sgl.select("colour", [" red", " green", " blue as the sea"], choices_method=method)


def check_select_with_each_method() -> None:
    for method in (
        sgl.token_length_normalized,
        sgl.greedy_token_selection,
        sgl.unconditional_likelihood_normalized,
    ):
        state = colour.run(thing="grass", method=method)
        assert state["colour"] in (" red", " green", " blue as the sea")
        told = state.get_meta_info("colour")["normalized_prompt_logprobs"]
        assert all(math.isfinite(value) and value < 0 for value in told)


def check_run_batch_gives_what_runs_give() -> None:
    questions = [f"What is {i} and {i}?" for i in range(6)]
    batch = answer.run_batch([{"question": q} for q in questions])
    assert [s["answer"] for s in batch] == [answer.run(question=q)["answer"] for q in questions]


def check_stream_ends_in_the_same_text() -> None:
    state = answer.run(question="Who wrote Faust?", stream=True)
    assert "".join(state.text_iter("answer")) == answer.run(question="Who wrote Faust?")["answer"]


def check_fork_and_cache() -> None:
    @sgl.function
    def tips(s):
        s += "Two tips for a good night's sleep.\n"
        forks = s.fork(2)
        for i, fork in enumerate(forks):
            fork += f"Tip {i + 1}:" + sgl.gen("tip", max_tokens=8, temperature=0)
        s += forks[0]["tip"] + forks[1]["tip"]

    backend.flush_cache()
    state = tips.run()
    assert state.text().startswith("Two tips")
    backend.cache_prefix("A long text that several requests begin with. " * 8)
    assert backend.get_server_info()["version"]


def check_its_own_test_programs() -> None:
    """Those that hold for any model, however small."""
    programs = importlib.import_module("sglang.test.test_programs")
    programs.test_select(check_answer=False)
    programs.test_decode_json_regex()
    programs.test_expert_answer(check_answer=False)
    programs.test_dtype_gen()
    programs.test_regex()
    programs.test_mt_bench()
    programs.test_parallel_decoding()
    programs.test_stream()


# ---------------------------------------------------------------- the kits


def _run_kit(module: str, mixin: str, leave_out: tuple[str, ...] = ()) -> None:
    kit = getattr(importlib.import_module(f"sglang.test.kits.{module}"), mixin)
    fields = {"base_url": URL, "model": MODEL, "process": unittest.mock.Mock(poll=lambda: None)}
    if module == "json_mode_kit":
        import openai

        fields["client"] = openai.Client(base_url=f"{URL}/v1", api_key=KEY)
    case = type(mixin, (kit, unittest.TestCase), fields)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    chosen = [test for test in suite if test._testMethodName not in leave_out]
    # the kits send no key
    with unittest.mock.patch.object(requests.sessions, "default_headers", lambda: dict(HEADERS)):
        result = unittest.TextTestRunner(buffer=True).run(unittest.TestSuite(chosen))
    assert result.wasSuccessful()
    print(f"    {mixin}: {result.testsRun} tests", flush=True)


def check_kit_json() -> None:
    """With its integers bounded: this model writes ones until it is cut."""
    kit = importlib.import_module("sglang.test.kits.json_constrained_kit").JSONConstrainedMixin
    kit.json_schema = kit.json_schema.replace('"integer"', '"integer", "maximum": 99999999')
    _run_kit("json_constrained_kit", "JSONConstrainedMixin")


def check_kit_json_mode() -> None:
    _run_kit("json_mode_kit", "JSONModeMixin")


def check_kit_regex() -> None:
    _run_kit("regex_constrained_kit", "RegexConstrainedMixin")


def check_kit_ebnf() -> None:
    """Left out: a test that wants one of the many texts of its grammar."""
    left_out = ("test_ebnf_generate_complex_json",)
    _run_kit("ebnf_constrained_kit", "EBNFConstrainedMixin", left_out)


def check_kit_stop() -> None:
    """Left out: the end-of-text tokens of Llama 3."""
    _run_kit("matched_stop_kit", "MatchedStopMixin", ("test_finish_stop_eos",))


def check_kit_contract() -> None:
    _run_kit("basic_api_contract_kit", "BasicAPIContractMixin")


def check_kit_correctness() -> None:
    """Left out: arithmetic, colours and varied prose, which take a larger model."""
    wise = ("test_basic_math", "test_color_completion", "test_no_repetition_blowup")
    _run_kit("basic_decode_correctness_kit", "BasicDecodeCorrectnessMixin", wise)


def check_kit_stress() -> None:
    """Left out: capitals, which this model ends before it names; a prompt as long as its context."""
    wise = ("test_concurrent_requests", "test_long_prompt")
    _run_kit("basic_scheduler_stress_kit", "BasicSchedulerStressMixin", wise)


def _sampled(num_prompts: int, input_len: int, **_: object) -> list[types.SimpleNamespace]:
    """Prompts of tokens that no two share a beginning of."""
    tokens = random.Random(num_prompts)
    return [
        types.SimpleNamespace(prompt=[tokens.randrange(100, 40_000) for _ in range(input_len)])
        for _ in range(num_prompts)
    ]


def check_kit_cache_hits() -> None:
    """Its prompts come from a data set; here they are drawn."""
    datasets = types.ModuleType("sglang.benchmark.datasets.random")
    datasets.sample_random_requests = _sampled
    serving = types.ModuleType("sglang.benchmark.serving")
    serving.RequestFuncOutput = lambda: types.SimpleNamespace(ttft=0.0, itl=[], error="")
    utils = types.ModuleType("sglang.benchmark.utils")
    utils.get_tokenizer = lambda path: None
    utils.remove_prefix = str.removeprefix
    stand_ins = {module.__name__: module for module in (datasets, serving, utils)}
    session = functools.partial(aiohttp.ClientSession, headers=HEADERS)
    with (
        unittest.mock.patch.dict(sys.modules, stand_ins),
        unittest.mock.patch.object(aiohttp, "ClientSession", session),
        unittest.mock.patch.object(requests.sessions, "default_headers", lambda: dict(HEADERS)),
    ):
        kit = importlib.import_module("sglang.test.kits.cache_hit_kit")
        kit.run_multiturn_cache_hit_test(
            URL, MODEL, num_clients=4, num_rounds=3, request_length=96, output_length=16
        )


def check_kit_abort_all() -> None:
    _run_kit("abort_timeout_kit", "AbortAllMixin")


if __name__ == "__main__":
    run(globals())
