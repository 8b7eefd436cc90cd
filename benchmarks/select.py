"""Options scored in one pass over their trie, against each option as a sequence of its own.

    python -m benchmarks.select [--repeats N] [--peer]

"apart" is the same engine with one session per option, all handed over at once: the text is
computed once (prefix cache) and the options are batched, so what is left is what the trie saves.
``--peer`` adds transformers in fp32, the same model: the text's key-value cache is computed once
and repeated for batches of 16 options (cases of up to 100). CPU seconds of the whole process, medians; both ways must
give the same log-probabilities.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import sgrt
from benchmarks import common

CASES = [(4, 100), (40, 400), (500, 1000)]  # options, tokens of the text before them
PEER_BATCH = 16
PEER_MOST = 100  # options; more take it minutes
SUBJECTS = ["Account", "Card", "Invoice", "Refund", "Delivery", "Order", "Warranty", "Password"]
MATTERS = ["was lost", "is late", "was charged twice", "cannot be changed", "is missing a part"]
PLACES = ["in the shop", "on the phone", "in the app", "by letter", "on the website", "abroad"]
URGENCY = ["", ", urgent", ", resolved", ", to be called back"]

Scores = list[tuple[float, ...]]


def options(num: int) -> list[str]:
    """Labels as taxonomies have them: many share their beginning."""
    labels = [
        f" {s} {m} {p}{u}" for s in SUBJECTS for m in MATTERS for p in PLACES for u in URGENCY
    ]
    return random.Random(0).sample(labels, num)


def prompt(engine: sgrt.Engine, num_tokens: int) -> list[int]:
    """Token ids of some customer's letter."""
    rng = random.Random(1)
    text = "Which label fits this letter?\n"
    while len(ids := engine.tokenizer.encode(text)) < num_tokens:
        text += f"My {rng.choice(SUBJECTS).lower()} {rng.choice(MATTERS)} {rng.choice(PLACES)}. "
    return list(ids[:num_tokens])


def together(engine: sgrt.Engine, ids: Sequence[int], labels: list[str]) -> Scores:
    """One session, one call."""
    session = engine.open()
    session.extend_ids(ids)
    return list(session.score(labels).result().token_logprobs)


def apart(engine: sgrt.Engine, ids: Sequence[int], labels: list[str]) -> Scores:
    """A session per option."""
    sessions = [engine.open() for _ in labels]
    handles = []
    for session, label in zip(sessions, labels, strict=True):
        session.extend_ids(ids)
        handles.append(session.score([label]))
    return [handle.result().token_logprobs[0] for handle in handles]


def load_peer(threads: int) -> Any:
    """The default model in transformers, dequantised to fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    from sgrt.models import hub

    torch.set_num_threads(threads)
    path = hub.resolve(None).path
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return model.eval()


def by_transformers(model: Any, ids: Sequence[int], labels: list[list[int]]) -> list[float]:
    """The log-probability of each option."""
    import torch

    found: list[float] = []
    with torch.inference_mode():
        start = model(torch.tensor([list(ids)]), use_cache=True, logits_to_keep=1)
        for at in range(0, len(labels), PEER_BATCH):
            batch = labels[at : at + PEER_BATCH]
            width = max(map(len, batch))
            padded = torch.tensor([label + [0] * (width - len(label)) for label in batch])
            cache = copy.deepcopy(start.past_key_values)
            cache.batch_repeat_interleave(len(batch))
            logits = model(padded[:, :-1], past_key_values=cache).logits if width > 1 else None
            first = start.logits[:, -1:].expand(len(batch), -1, -1)
            logits = first if logits is None else torch.cat([first, logits], 1)
            logprobs = logits.log_softmax(-1).gather(-1, padded.unsqueeze(-1)).squeeze(-1)
            found += [float(row[: len(o)].sum()) for row, o in zip(logprobs, batch, strict=True)]
    return found


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """What a call costs the whole process, and what it returns."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def measure(
    engine: sgrt.Engine, peer: Any, num_options: int, num_tokens: int, repeats: int
) -> dict[str, Any]:
    """Both ways in turn, each with a cold cache."""
    ids, labels = prompt(engine, num_tokens), options(num_options)
    encoded = [engine.tokenizer.encode(label, after_id=ids[-1]) for label in labels]
    seconds: dict[str, list[float]] = {"together": [], "apart": []}
    computed: dict[str, float] = {}
    row: dict[str, Any] = {
        "options": num_options,
        "option_tokens": sum(map(len, encoded)),
        "text_tokens": len(ids),
    }
    for repeat in range(repeats):
        scores = {}
        for name, way in (("together", together), ("apart", apart)):
            engine.flush_cache()
            before = engine.stats()["computed"]
            taken, scores[name] = cpu_seconds(lambda way=way: way(engine, ids, labels))  # type: ignore[misc]
            seconds[name].append(taken)
            computed[name] = engine.stats()["computed"] - before
        assert scores["together"] == scores["apart"], "the two ways disagree"
        if peer is not None and repeat == 0 and num_options <= PEER_MOST:
            taken, theirs = cpu_seconds(lambda: by_transformers(peer, ids, encoded))
            seconds.setdefault("transformers", []).append(taken)
            off = max(abs(sum(a) - b) for a, b in zip(scores["together"], theirs, strict=True))
            row["largest_difference_to_transformers"] = round(off, 3)
    for name, values in seconds.items():
        row[name] = {"cpu_s": round(median(values), 3), "all": [round(v, 3) for v in values]}
        row[name]["times_together"] = round(median(values) / median(seconds["together"]), 2)
    for name, count in computed.items():
        row[name]["tokens_computed"] = int(count)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", action="store_true", help="transformers in the same run")
    args = parser.parse_args()
    peer = load_peer(args.threads) if args.peer else None
    rows = []
    with sgrt.Engine(num_threads=args.threads) as engine:
        engine.generate("warm up", max_tokens=2)
        for num_options, num_tokens in CASES:
            rows.append(measure(engine, peer, num_options, num_tokens, args.repeats))
            print(rows[-1])
    common.save("select", rows, unit="CPU seconds, medians", threads=args.threads)


if __name__ == "__main__":
    main()
