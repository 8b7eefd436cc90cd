"""What a batch costs beside its tokens, counted on the embedded engine: as written or by plan."""

import itertools

import pytest

import sgrt

pytest.importorskip("torch")
from tests.runtime.integer_model import integer_parts

RULES = "Read it, and write down field by field what it says.\n"
FIELDS = ("a", "b", "c", "d", "e")
NUM_ITEMS = 8
_kind = itertools.count()


@sgrt.function
def extract(s, text, kind):
    s += RULES
    s += text + "\n"
    for name in FIELDS:
        s += f"{name}: " + sgrt.gen(name, regex=f"{kind}{name}[0-9]{{2}}", temperature=0) + "\n"


@sgrt.function
def extract_plainly(s, text):
    s += RULES + text + "\n"
    s += "a: " + sgrt.gen("a", regex="plain a[0-9]{2}") + "\nb: "
    s += sgrt.gen("b", regex="plain b[0-9]{2}") + "\n"


@pytest.fixture
def engine():
    with sgrt.Engine.from_parts(integer_parts(num_pages=2000)) as engine:
        yield engine


def counted(engine, monkeypatch, run):
    """Texts, calls of the engine that hand over work, and how its counters moved."""
    calls = []
    submit = engine._loop.submit

    def counting(live, *operations):
        calls.append(operations)
        submit(live, *operations)

    monkeypatch.setattr(engine._loop, "submit", counting)
    before = engine.stats()
    texts = [state.text() for state in run()]
    monkeypatch.undo()
    return texts, len(calls), {k: v - before[k] for k, v in engine.stats().items()}


@pytest.mark.parametrize("way", ["as written", "by plan"])
def test_batch_hands_each_item_over_once_and_computes_and_compiles_what_is_shared_once(
    engine, monkeypatch, way
):
    kind = f"k{next(_kind)}"
    items = [{"text": f"item {i}", "kind": kind} for i in range(NUM_ITEMS)]
    program = extract if way == "as written" else extract.compile()
    texts, num_calls, stats = counted(
        engine, monkeypatch, lambda: program.run_batch(items, backend=engine)
    )
    assert all(text.startswith(RULES) for text in texts)
    assert num_calls == NUM_ITEMS + 1  # and the prefix, to be kept
    assert stats["grammars_compiled"] == len(FIELDS)
    assert stats["grammars_cached"] == len(FIELDS) * (NUM_ITEMS - 1)
    num_own = sum(len(text) for text in texts) - len(RULES) * NUM_ITEMS
    page_size = engine.config.page_size
    computed = stats["prompt"] - stats["cached"] + stats["sampled"] + stats["forced"]
    assert computed <= num_own + len(RULES) + NUM_ITEMS * (2 * page_size + len(FIELDS))


def test_runs_one_by_one_share_as_a_batch_does(engine, monkeypatch):
    kind = f"k{next(_kind)}"
    items = [{"text": f"item {i}", "kind": kind} for i in range(NUM_ITEMS)]
    texts, num_calls, stats = counted(
        engine, monkeypatch, lambda: [extract.run(backend=engine, **item) for item in items]
    )
    assert num_calls == NUM_ITEMS
    assert stats["grammars_compiled"] == len(FIELDS)
    again, _, _ = counted(engine, monkeypatch, lambda: extract.run_batch(items, backend=engine))
    assert again == texts


def test_grammars_of_a_batch_are_begun_before_its_items(engine, monkeypatch):
    asked = []
    compile_one = engine._parts.grammars.compile

    def noting(constraint, *, ahead=False):
        asked.append((constraint, ahead))
        return compile_one(constraint, ahead=ahead)

    monkeypatch.setattr(engine._parts.grammars, "compile", noting)
    extract_plainly.run_batch([{"text": str(i)} for i in range(3)], backend=engine)
    ahead = [constraint for constraint, is_ahead in asked if is_ahead]
    assert len(ahead) == len(set(ahead)) == 2
    assert set(ahead) == {constraint for constraint, _ in asked}
