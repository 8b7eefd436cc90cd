"""`run_batch(resume=path)`: what was done stays done, whatever kills the process."""

import dataclasses
import enum
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path

import pydantic
import pytest

import sgrt
from sgrt.lang import kept


class Person(pydantic.BaseModel):
    name: str
    born: date


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


def backend(**options):
    person = '{"name":"A","born":"1815-12-10"}'
    return sgrt.ScriptedBackend(lambda prompt, c, p: person if c else "b", **options)


@sgrt.function
def about(s, i, ran=None):
    if i in FAILING:
        raise ValueError(i)
    s += sgrt.user(f"person {i}")
    s += sgrt.assistant(sgrt.gen("who", output=Person))
    with s.fork(2) as forks:
        forks += " x" + sgrt.gen("child", max_tokens=99)
    s["own"] = (Point(i), {Colour.RED: math.inf}, {3, 1}, b"\xff", None)
    return [s["who"], i]


FAILING = set()


@pytest.fixture(autouse=True)
def nothing_fails():
    FAILING.clear()


def everything(state):
    values = {name: state[name] for name in state.variables()}
    return state.text(), state.messages(), values, state.value, state.error(), state["who"].born


def test_second_run_gives_the_same_states_without_running_anything(tmp_path):
    path, items = tmp_path / "j", [(i,) for i in range(9)]
    first = about.run_batch(items, backend=backend(), resume=path)
    unused = backend(fail_on="person")
    again = about.run_batch(items, backend=unused, resume=path)
    assert [everything(state) for state in again] == [everything(state) for state in first]
    assert unused.calls == []
    assert "".join(again[0].text_iter()) == first[0].text()


def test_failed_items_have_no_row_and_run_again(tmp_path):
    path, items = tmp_path / "j", [(i,) for i in range(5)]
    FAILING.update({1, 3})
    states = about.run_batch(items, backend=backend(), resume=path)
    assert [state.error() is None for state in states] == [True, False, True, False, True]
    assert len(rows(path)) == 3
    FAILING.clear()
    fake = backend()
    states = about.run_batch(items, backend=fake, resume=path)
    assert [state.value[1] for state in states] == list(range(5))
    assert sum("person" in call.prompt and call.constraint is not None for call in fake.calls) == 2
    assert sorted(row["item"] for row in rows(path)) == list(range(5))


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_batch_may_have_grown_but_not_changed(tmp_path):
    path = tmp_path / "j"
    about.run_batch([(0,), (1,)], backend=backend(), resume=path)
    fake = backend()
    assert len(about.run_batch([(0,), (1,), (2,)], backend=fake, resume=path)) == 3
    for items, why in (
        ([(0,), (5,), (2,)], "item 1 of the batch had other arguments"),
        ([(0,), ("1",), (2,)], "item 1 of the batch had other arguments"),
        ([(0,)], "no item 1"),
    ):
        with pytest.raises(sgrt.RequestError, match=why):
            about.run_batch(items, backend=fake, resume=path)
    with pytest.raises(sgrt.RequestError, match="sampling parameters or seed"):
        about.run_batch([(0,), (1,), (2,)], backend=fake, resume=path, temperature=0)
    with pytest.raises(sgrt.RequestError, match="sampling parameters or seed"):
        about.run_batch([(0,), (1,), (2,)], backend=fake, resume=path, seed=1)


def test_journal_of_another_program_is_refused(tmp_path):
    @sgrt.function
    def other(s, i):
        pass

    about.run_batch([(0,)], backend=backend(), resume=tmp_path / "j")
    with pytest.raises(sgrt.RequestError, match="another program"):
        other.run_batch([(0,)], backend=backend(), resume=tmp_path / "j")


def test_line_that_was_cut_off_is_dropped_wherever_it_was_cut(tmp_path):
    path, items = tmp_path / "j", [(i,) for i in range(3)]
    about.run_batch(items, backend=backend(), resume=path)
    data = path.read_bytes()
    last = data[:-1].rfind(b"\n") + 1
    for cut in {0, 1, data.find(b"\n"), last, last + 1, (last + len(data)) // 2, len(data) - 1}:
        path.write_bytes(data[:cut])
        states = about.run_batch(items, backend=backend(), resume=path)
        assert [state.value[1] for state in states] == [0, 1, 2]
        assert sorted(row["item"] for row in rows(path)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"item":0}', "had other arguments"),
        ('{"item":7}', "no item 7"),
        ('{"item":true}', "no item True"),
        ("twice", "stands there twice"),
        ("broken", "cannot be read"),
    ],
)
def test_row_that_is_no_row_is_refused_with_its_line(tmp_path, line, why):
    path = tmp_path / "j"
    about.run_batch([(0,), (1,)], backend=backend(), resume=path)
    head, first, second = path.read_text().splitlines()
    if line == "twice":
        line = first
    if line == "broken":
        line = json.dumps(json.loads(second) | {"value": {"object": "os:system", "value": "x"}})
        second = first
    path.write_text("\n".join([head, second if line != first else first, line, ""]))
    with pytest.raises(sgrt.RequestError, match=why):
        about.run_batch([(0,), (1,)], backend=backend(), resume=path)


@pytest.mark.parametrize("content", ["{}\n", '{"sgrt_journal":2}\n', "text\n", "text", "text\ncut"])
def test_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "j"
    path.write_text(content)
    with pytest.raises(sgrt.RequestError):
        about.run_batch([(0,)], backend=backend(), resume=path)
    assert path.read_text() == content


def test_journal_that_cannot_be_opened_is_refused_with_its_path(tmp_path):
    path = tmp_path / "none" / "j"
    with pytest.raises(sgrt.RequestError, match=f"resume='{path}': No such file"):
        about.run_batch([(0,)], backend=backend(), resume=path)


def test_arguments_and_values_that_cannot_be_kept_are_refused_by_name(tmp_path):
    class Local(pydantic.BaseModel):
        x: int = 1

    @sgrt.function
    def program(s, x):
        s["kept"] = x() if callable(x) else x
        return 1

    with pytest.raises(sgrt.RequestError, match=r"item 1: .*object"):
        program.run_batch([(1,), (object(),)], backend=backend(), resume=tmp_path / "a")
    with pytest.raises(sgrt.RequestError, match=r"cannot keep 'kept' of item 0: .*Local"):
        program.run_batch([(Local(),)], backend=backend(), resume=tmp_path / "b")


def test_two_runs_cannot_write_one_journal(tmp_path):
    path = tmp_path / "j"
    slow = backend(latency=0.2)
    running = about.stream_batch([(0,), (1,)], backend=slow, resume=path, num_threads=1)
    next(running)
    with pytest.raises(sgrt.RequestError, match="another run"):
        about.run_batch([(0,), (1,)], backend=backend(), resume=path)
    running.close()
    assert len(about.run_batch([(0,), (1,)], backend=backend(), resume=path)) == 2


async def test_every_form_resumes(tmp_path):
    path, items = tmp_path / "j", [(i,) for i in range(4)]
    await about.arun_batch(items[:1], backend=backend(), resume=path)
    async for _ in about.astream_batch(items[:2], backend=backend(), resume=path):
        pass
    assert len(list(about.stream_batch(items[:3], backend=backend(), resume=path))) == 3
    states = about.run_batch(items, backend=backend(), resume=path, generator_style=True)
    assert [state.value[1] for state in states] == [0, 1, 2, 3]
    assert len(rows(path)) == 4


VALUES = [
    *(None, True, 0, -(10**30), 1.5, "a\ud800", [], {}, (), [1, (2, {3})], {1: {"a": b"x"}}),
    *(frozenset({"b", "a"}), math.inf, Colour.RED, Point(3), date(1, 2, 3), {"object": 1}),
    *({"dict": []}, Person(name="A", born=date(1, 1, 1)), [Person(name="é", born=date(1, 1, 1))]),
]


@pytest.mark.parametrize("value", VALUES)
def test_kept_values_come_back_with_their_types(value):
    found = kept.decode(json.loads(json.dumps(kept.encode(value))))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *('{"x":1}', "{}", '{"tuple":1}', '{"dict":[1]}', '{"float":"1"}', '{"tuple":[],"set":[]}'),
        *('{"object":"os:system","value":"true"}', '{"object":"nowhere:A","value":1}'),
        *('{"object":"subprocess:Popen","value":"true"}', '{"bytes":"zz"}'),
    ],
)
def test_what_was_not_kept_is_refused(text):
    with pytest.raises((ValueError, TypeError)):
        kept.decode(json.loads(text))


SCRIPT = """
import sys
import sgrt

@sgrt.function
def program(s, i):
    with open(sys.argv[2], "a") as file:
        file.write(f"{i}\\n")
    s += f"{i} " + sgrt.gen("x", max_tokens=9)
    return s["x"]

backend = sgrt.ScriptedBackend(lambda p, c, q: p.strip(), latency=float(sys.argv[3]))
states = program.run_batch([(i,) for i in range(int(sys.argv[4]))], backend=backend,
                           resume=sys.argv[1], num_threads=7)
assert [state.value for state in states] == [str(i) for i in range(int(sys.argv[4]))]
print("whole")
"""


def killed_until_whole(tmp_path: Path, *, num_items: int, kills: int, latency: float) -> Counter:
    """Run the script, kill it some times, let it end; how often each item began."""
    path, began = tmp_path / "j", tmp_path / "began"
    command = [sys.executable, "-c", SCRIPT, path, began, str(latency), str(num_items)]
    chance = random.Random(1)
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        size = path.stat().st_size if path.exists() else 0
        for _ in range(3000):  # until it has got on
            if process.poll() is not None or (path.exists() and path.stat().st_size > size + 300):
                break
            time.sleep(0.005)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout == "whole\n"
    assert sorted(row["item"] for row in rows(path)) == list(range(num_items))
    return Counter(map(int, began.read_text().split()))


def test_killed_batch_goes_on_with_exactly_one_row_per_item(tmp_path):
    began = killed_until_whole(tmp_path, num_items=60, kills=1, latency=0.01)
    assert set(began) == set(range(60))
    assert sum(began.values()) <= 60 + 7  # at most those that were under way ran again


@pytest.mark.slow
def test_batch_killed_again_and_again_has_exactly_one_row_per_item(tmp_path):
    began = killed_until_whole(tmp_path, num_items=3000, kills=12, latency=0.005)
    assert set(began) == set(range(3000))
    # An item under way, or written but not yet known to be, may have begun once more per kill.
    assert sum(began.values()) <= 3000 + 12 * 7


def test_row_is_on_disk_before_the_item_counts_as_ended(tmp_path):
    path = tmp_path / "j"
    for index, _ in about.stream_batch([(i,) for i in range(5)], backend=backend(), resume=path):
        assert index in {row["item"] for row in rows(path)}
