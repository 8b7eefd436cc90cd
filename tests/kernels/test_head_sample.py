"""head_sample: laws that every implementation keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sgrt_kernels import head_sample as hs
from sgrt_kernels.head_sample import native
from sgrt_kernels.quant import RawWeight
from tests.kernels.sampling import ISAS, Row, bits, library_or_skip, noise, some_ids, torch_draw

SIZES = (1, 31, 32, 33, 1000, 49152)


@pytest.fixture(params=["torch", ISAS[0]])
def draw(request: pytest.FixtureRequest) -> Any:
    """Draws from given logits [R, V]: (logits, plan, rows) -> Drawn."""
    if request.param == "torch":
        return torch_draw
    library = library_or_skip(request.param)
    return lambda logits, plan, rows: native.sample_logits(library, logits, plan, rows)


@pytest.fixture(params=["torch", ISAS[0]])
def pack(request: pytest.FixtureRequest) -> Any:
    """Packs a matrix [V, D] into a head."""
    library = None if request.param == "torch" else library_or_skip(request.param)
    return lambda matrix, **options: hs.Head.pack(RawWeight.from_tensor(matrix), library, **options)


def many(row: Row, count: int) -> hs.SamplingRows:
    """The same row at `count` positions."""
    return hs.SamplingRows.build([dataclasses.replace(row, position=i) for i in range(count)])


SETTINGS = {
    "greedy": Row(),
    "warm": Row(temperature=0.7, seed=3),
    "flat": Row(temperature=50.0, seed=4),
    "cold": Row(temperature=1e-6, seed=4),
    "top_k": Row(temperature=1.0, top_k=5, seed=5),
    "top_p": Row(temperature=1.0, top_p=0.6, seed=(1 << 64) - 1),
    "min_p": Row(temperature=1.5, min_p=0.2, seed=1 << 40),
    "all": Row(temperature=1.2, top_k=40, top_p=0.9, min_p=0.02, seed=6, position=1 << 40),
}


# ---------------------------------------------------------------- which tokens


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("vocab_size", SIZES)
def test_draw_same_allowed_set_is_the_same_in_every_representation(
    draw: Any, vocab_size: int, settings: str
) -> None:
    row, logits = SETTINGS[settings], noise(1, vocab_size)
    ids = some_ids(vocab_size, 20)
    everything = list(range(vocab_size))

    def token(mask: Any, **change: Any) -> int:
        rows = hs.SamplingRows.build([dataclasses.replace(row, **change)])
        return int(draw(logits, hs.MaskPlan.build([mask]), rows).token_ids[0])

    rest = sorted(set(everything) - set(ids))
    assert token(ids) == token(bits(ids, vocab_size)) == token(None, banned=rest)
    assert token(ids) in ids
    assert token(everything) == token(bits(everything, vocab_size)) == token(None)
    assert token([ids[0]]) == token(bits(ids[:1], vocab_size)) == ids[0]


@pytest.mark.parametrize("vocab_size", SIZES)
def test_draw_masked_tokens_are_never_drawn(draw: Any, vocab_size: int) -> None:
    count = 1000 if vocab_size <= 1000 else 16
    ids = some_ids(vocab_size, max(1, vocab_size // 3))
    logits = torch.zeros(1, vocab_size)
    banned = set(range(vocab_size)) - set(ids)
    logits[0, list(banned)] = 50.0  # the mask must hold where the model pulls hard
    words = bits(ids, vocab_size)
    words[-1] |= np.uint32(0xFFFFFFFF << ((vocab_size - 1) % 32 + 1) & 0xFFFFFFFF)  # above V
    plan = hs.MaskPlan.build([words] * count)
    for row in (Row(temperature=1.0, seed=1), Row(temperature=1.0, seed=1, top_p=0.999)):
        drawn = draw(logits.expand(count, -1).contiguous(), plan, many(row, count))
        assert set(drawn.token_ids.tolist()) <= set(ids)
    if vocab_size == 1000:
        assert set(drawn.token_ids.tolist()).__len__() > 250  # and the allowed ones are


def test_draw_any_batch_and_order_gives_a_row_the_same_token(draw: Any) -> None:
    vocab_size, rng = 1000, np.random.default_rng(0)
    settings = [dataclasses.replace(r, position=i) for i in range(4) for r in SETTINGS.values()]
    masks: list[Any] = []
    for i in range(len(settings)):
        ids = some_ids(vocab_size, 30, seed=i)
        masks.append((None, ids, bits(ids, vocab_size), ids[:1])[i % 4])
    logits = noise(len(settings), vocab_size)

    def tokens(order: Sequence[int]) -> list[int]:
        plan = hs.MaskPlan.build([masks[i] for i in order])
        rows = hs.SamplingRows.build([settings[i] for i in order])
        result: list[int] = draw(logits[list(order)], plan, rows).token_ids.tolist()
        return result

    alone = [tokens([i])[0] for i in range(len(settings))]
    assert tokens(range(len(settings))) == alone
    for _ in range(3):
        order = rng.permutation(len(settings)).tolist()
        assert tokens(order) == [alone[i] for i in order]


def test_draw_temperature_zero_ties_go_to_the_lowest_id(draw: Any) -> None:
    logits = torch.full((3, 200), -1.0)
    logits[0, [17, 40, 199]] = 2.0
    logits[1, 50], logits[1, 20] = 0.0, -0.0  # equal as numbers
    plan = hs.MaskPlan.build([None, None, [30, 150]])
    assert draw(logits, plan, hs.SamplingRows.greedy(3)).token_ids.tolist() == [17, 20, 30]


def test_draw_equal_logits_top_k_keeps_the_lowest_ids(draw: Any) -> None:
    logits = torch.zeros(1, 100)
    logits[0, 60] = 1.0
    count = 400
    rows = many(Row(temperature=5.0, top_k=4, seed=2), count)
    drawn = draw(logits.expand(count, -1).contiguous(), hs.MaskPlan.free(count), rows)
    assert set(drawn.token_ids.tolist()) == {0, 1, 2, 60}


def test_draw_equal_logits_top_p_keeps_the_lowest_ids(draw: Any) -> None:
    count = 300
    rows = many(Row(temperature=1.0, top_p=5 / 64, seed=2), count)
    drawn = draw(torch.zeros(count, 64), hs.MaskPlan.free(count), rows)
    assert set(drawn.token_ids.tolist()) == {0, 1, 2, 3, 4}


def test_draw_vanishing_temperature_still_breaks_ties_by_noise(draw: Any) -> None:
    logits = torch.full((300, 64), 1e4)
    logits[:, 32:] = 1e4 - 1
    drawn = draw(logits, hs.MaskPlan.free(300), many(Row(temperature=1e-30, seed=9), 300))
    assert set(drawn.token_ids.tolist()) == set(range(32))


# ---------------------------------------------------------------- with which probability


def expected_probabilities(logits: torch.Tensor, row: Row) -> torch.Tensor:
    """Exact probabilities, by another route than the reference: numpy, one token at a time."""
    scaled = (logits.double() / row.temperature).numpy()
    order = sorted(range(len(scaled)), key=lambda i: (-scaled[i], i))
    if row.top_k > 0:
        order = order[: row.top_k]
    p = {i: float(np.exp(scaled[i] - scaled[order[0]])) for i in order}
    total, mass, kept = sum(p.values()), 0.0, []
    for i in order:
        if mass < row.top_p * total and p[i] >= row.min_p:
            kept.append(i)
        mass += p[i]
    out = torch.zeros(len(scaled), dtype=torch.float64)
    out[kept] = torch.tensor([p[i] for i in kept], dtype=torch.float64)
    return out / out.sum()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "row",
    [
        Row(temperature=1.0),
        Row(temperature=0.5),
        Row(temperature=2.0),
        Row(temperature=1.0, top_k=6),
        Row(temperature=1.0, top_p=0.7),
        Row(temperature=1.3, min_p=0.1),
        Row(temperature=1.1, top_k=12, top_p=0.8, min_p=0.05),
    ],
)
def test_draw_many_positions_follow_the_exact_probabilities(draw: Any, row: Row, seed: int) -> None:
    count, vocab_size = 6000, 33
    logits = noise(1, vocab_size, seed=seed, scale=1.5)
    expected = expected_probabilities(logits[0], row)
    rows = many(dataclasses.replace(row, seed=seed), count)
    drawn = draw(logits.expand(count, -1).contiguous(), hs.MaskPlan.free(count), rows)
    counts = torch.bincount(torch.from_numpy(drawn.token_ids).long(), minlength=vocab_size)
    assert counts[expected == 0].sum() == 0
    often = expected * count >= 5
    merged = torch.cat((counts[often], counts[~often].sum().view(1))).double()
    means = torch.cat((expected[often], expected[~often].sum().view(1))) * count
    merged, means = merged[means > 0], means[means > 0]
    chi_square = float(((merged - means) ** 2 / means).sum())
    freedom = len(means) - 1
    assert chi_square < freedom + 3.3 * (2 * freedom) ** 0.5 + 6  # about p = 0.001


def test_draw_seeds_are_independent(draw: Any) -> None:
    count = 3000
    rows = hs.SamplingRows.build([Row(temperature=1.0, seed=i) for i in range(count)])
    drawn = draw(torch.zeros(count, 16), hs.MaskPlan.free(count), rows)
    counts = np.bincount(drawn.token_ids, minlength=16)
    assert ((counts - count / 16) ** 2 / (count / 16)).sum() < 37.7  # 15 degrees, p = 0.001


# ---------------------------------------------------------------- penalties, bias


def plain_adjusted(logits: torch.Tensor, row: Row) -> torch.Tensor:
    """Penalties and bias of one row, by the textbook."""
    out = logits.clone()
    for token, (prompt, output) in row.history.items():
        if prompt + output:
            out[token] = (
                out[token] / row.repetition if out[token] > 0 else out[token] * row.repetition
            )
        out[token] -= row.frequency * output + (row.presence if output else 0.0)
    for token, value in row.bias.items():
        out[token] += value
    return out


def test_draw_penalties_and_bias_change_the_winner_as_the_textbook_says(draw: Any) -> None:
    vocab_size, rng, rows, logits = 60, np.random.default_rng(3), [], noise(200, 60)
    for i in range(200):
        seen = {t: (int(rng.integers(3)), int(rng.integers(3))) for t in some_ids(60, 25, seed=i)}
        bias = {t: float(rng.normal()) * 2 for t in some_ids(60, 6, seed=1000 + i)}
        rows.append(
            Row(
                repetition=float(rng.uniform(0.5, 2)),
                presence=float(rng.uniform(-1, 2)),
                frequency=float(rng.uniform(-1, 2)),
                history=seen,
                bias=bias,
            )
        )
    expected = [int(plain_adjusted(logits[i], row).argmax()) for i, row in enumerate(rows)]
    assert sum(e != int(x.argmax()) for e, x in zip(expected, logits, strict=True)) > 50
    sampling = hs.SamplingRows.build(rows)
    for masks in ([None], [list(range(vocab_size))], [bits(range(vocab_size), vocab_size)]):
        drawn = draw(logits, hs.MaskPlan.build(masks * 200), sampling)
        assert drawn.token_ids.tolist() == expected


# ---------------------------------------------------------------- log-probabilities


def test_logprobs_masked_and_unmasked_match_log_softmax(draw: Any) -> None:
    vocab_size, ids = 1000, some_ids(1000, 50)
    logits = noise(4, vocab_size)
    plan = hs.MaskPlan.build([None, ids, bits(ids, vocab_size), ids])
    settings = [Row(num_top=3, temperature=0.5, bias={5: 2.0}, repetition=2.0, history={7: (1, 1)})]
    settings += [Row(num_top=60), Row(num_top=0, temperature=1.0), Row(num_top=4, unmasked=True)]
    drawn = draw(logits, plan, hs.SamplingRows.build(settings))
    full = logits.double().log_softmax(-1)
    few = logits[:, ids].double().log_softmax(-1)
    taken = drawn.token_ids.tolist()
    want = [full[0, taken[0]]]
    want += [few[1, ids.index(taken[1])], few[2, ids.index(taken[2])], full[3, taken[3]]]
    assert drawn.logprobs.tolist() == pytest.approx([float(w) for w in want], abs=1e-5)
    assert drawn.top_ids.shape == (4, 60)
    assert drawn.top_ids[0, :3].tolist() == full[0].topk(3).indices.tolist()
    assert (drawn.top_ids[0, 3:] == -1).all() and np.isnan(drawn.top_logprobs[0, 3:]).all()
    order = few[1].argsort(descending=True)
    assert drawn.top_ids[1, :50].tolist() == [ids[i] for i in order.tolist()]
    assert drawn.top_logprobs[1, :50] == pytest.approx(few[1][order].numpy(), abs=1e-5)
    assert (drawn.top_ids[1, 50:] == -1).all()
    assert (drawn.top_ids[2] == -1).all()
    assert drawn.top_ids[3, :4].tolist() == full[3].topk(4).indices.tolist()
    assert drawn.top_logprobs[3, :4] == pytest.approx(full[3].topk(4).values.numpy(), abs=1e-5)


def test_logprobs_not_asked_for_are_nan(draw: Any) -> None:
    drawn = draw(noise(2, 40), hs.MaskPlan.free(2), hs.SamplingRows.greedy(2))
    assert np.isnan(drawn.logprobs).all() and drawn.top_ids.shape == (2, 0)


def test_logprobs_forced_row_is_certain(draw: Any) -> None:
    drawn = draw(noise(1, 40), hs.MaskPlan.build([[7]]), hs.SamplingRows.build([Row(num_top=2)]))
    assert drawn.logprobs.tolist() == [0.0]
    assert drawn.top_ids.tolist() == [[7, -1]] and drawn.top_logprobs[0, 0] == 0.0


def test_targets_are_scored_and_no_token_is_taken(draw: Any) -> None:
    logits, ids = noise(5, 500), some_ids(500, 30)
    outside = next(i for i in range(500) if i not in ids)
    rows = [Row(targets=[3, 7], temperature=1.0), Row(targets=[ids[4]]), Row()]
    rows += [Row(targets=[outside]), Row(targets=[outside], unmasked=True, num_top=1)]
    plan = hs.MaskPlan.build([None, ids, None, ids, ids])
    drawn = draw(logits, plan, hs.SamplingRows.build(rows))
    assert drawn.token_ids.tolist() == [-1, -1, int(logits[2].argmax()), -1, -1]
    full = logits.double().log_softmax(-1)
    few = logits[1, ids].double().log_softmax(-1)
    want = [full[0, 3], full[0, 7], few[4], -np.inf, full[4, outside]]
    assert drawn.target_logprobs.tolist() == pytest.approx([float(x) for x in want], abs=1e-5)
    assert drawn.top_ids[4, 0] == int(logits[4].argmax())
    assert np.isnan(drawn.logprobs).all()


def test_targets_of_one_row_equal_those_of_rows_with_one_each_bit_for_bit(draw: Any) -> None:
    logits, targets = noise(1, 500), some_ids(500, 40)
    together = hs.SamplingRows.build([Row(targets=targets)])
    alone = hs.SamplingRows.build([Row(targets=[i]) for i in targets])
    one = draw(logits, hs.MaskPlan.free(1), together).target_logprobs
    each = draw(logits.repeat(40, 1), hs.MaskPlan.free(40), alone).target_logprobs
    assert one.tolist() == each.tolist()


# ---------------------------------------------------------------- what is computed


def test_head_sample_logits_are_the_product(pack: Any) -> None:
    matrix, hidden = noise(100, 64, scale=0.2), noise(5, 64)
    got = hs.logits(hidden, pack(matrix))
    assert got.shape == (5, 100)
    torch.testing.assert_close(got, hidden @ matrix.T, atol=1e-4, rtol=1e-5)


def test_head_sample_computes_only_what_the_mask_leaves_open(pack: Any) -> None:
    vocab_size = 4096
    head, hidden = pack(noise(vocab_size, 64, scale=0.2)), noise(3, 64)
    greedy = hs.SamplingRows.greedy(1)

    def computed(mask: Any, rows: hs.SamplingRows = greedy) -> int:
        return hs.head_sample(hidden, head, hs.MaskPlan.build([mask]), rows).rows_computed

    assert computed([5]) == 0
    assert computed([5], hs.SamplingRows.build([Row(num_top=1)])) == 0
    assert 2 <= computed([5, 3000]) <= 32
    assert computed(None) == vocab_size
    assert computed([5, 9], hs.SamplingRows.build([Row(num_top=1, unmasked=True)])) == vocab_size


def test_head_sample_forced_rows_need_no_hidden_state(pack: Any) -> None:
    head, hidden = pack(noise(300, 64)), noise(1, 64)
    plan = hs.MaskPlan.build([[9], None, [250]])
    source = np.array([-1, 0, -1], np.int32)
    drawn = hs.head_sample(hidden, head, plan, hs.SamplingRows.greedy(3), source)
    best = int(hs.logits(hidden, head)[0].argmax())
    assert drawn.token_ids.tolist() == [9, best, 250]
    with pytest.raises(ValueError, match="row 1 needs a hidden state"):
        hs.head_sample(hidden, head, plan, hs.SamplingRows.greedy(3), np.full(3, -1))
    none = torch.zeros(0, 64)
    drawn = hs.head_sample(none, head, hs.MaskPlan.build([[9]]), hs.SamplingRows.greedy(1))
    assert drawn.token_ids.tolist() == [9]


@pytest.mark.parametrize("vocab_size", [1, 31, 33, 1000])
def test_head_sample_mixed_rows_equal_a_draw_from_all_logits(pack: Any, vocab_size: int) -> None:
    head, num_rows = pack(noise(vocab_size, 64, scale=0.3)), 24
    hidden, masks, rows = noise(7, 64, seed=1), [], []
    for i in range(num_rows):
        ids = some_ids(vocab_size, 12, seed=i)
        masks.append((None, ids, bits(ids, vocab_size), ids[:1])[i % 4])
        kind = list(SETTINGS.values())[i % len(SETTINGS)]
        rows.append(dataclasses.replace(kind, position=i, num_top=i % 3 - 1, unmasked=i % 5 == 0))
    source = np.arange(num_rows, dtype=np.int32) % 7
    plan, sampling = hs.MaskPlan.build(masks), hs.SamplingRows.build(rows)
    drawn = hs.head_sample(hidden, head, plan, sampling, source)
    expected = torch_draw(hs.logits(hidden, head)[source], plan, sampling)
    assert drawn.token_ids.tolist() == expected.token_ids.tolist()
    np.testing.assert_allclose(drawn.logprobs, expected.logprobs, atol=1e-4)
    np.testing.assert_array_equal(drawn.top_ids, expected.top_ids)


def test_head_sample_no_rows_give_no_tokens(pack: Any) -> None:
    rows = hs.SamplingRows.build([])
    drawn = hs.head_sample(torch.zeros(0, 64), pack(noise(40, 64)), hs.MaskPlan.build([]), rows)
    assert drawn.token_ids.shape == (0,) and drawn.rows_computed == 0


def test_head_sample_padding_rows_of_the_head_are_never_drawn(pack: Any) -> None:
    matrix = noise(64, 32)
    matrix[50:] = 0.0
    hidden = -torch.ones(1, 32)
    matrix[:50] = 1.0  # real tokens score -32, padding would score 0
    head = pack(matrix, vocab_size=50)
    assert head.vocab_size == 50 and hs.logits(hidden, head).shape == (1, 50)
    drawn = hs.head_sample(hidden, head, hs.MaskPlan.free(1), hs.SamplingRows.greedy(1))
    assert drawn.token_ids.tolist() == [0]
    with pytest.raises(ValueError, match="token 50, outside"):
        hs.head_sample(hidden, head, hs.MaskPlan.build([[50]]), hs.SamplingRows.greedy(1))


# ---------------------------------------------------------------- what is refused


def test_draw_row_without_allowed_tokens_is_refused_by_name(draw: Any) -> None:
    plan = hs.MaskPlan.build([None, bits([], 40), [3, 5], [7]])
    rows = hs.SamplingRows.build([Row(), Row(), Row(banned=[3, 5]), Row(banned=[6])])
    with pytest.raises(hs.NoAllowedToken) as caught:
        draw(noise(4, 40), plan, rows)
    assert caught.value.rows == (1, 2)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_draw_logits_not_finite_are_refused_where_they_matter(draw: Any, poison: float) -> None:
    logits = noise(3, 40)
    logits[:, 9] = poison
    rows = hs.SamplingRows.greedy(3)
    with pytest.raises(hs.BadLogits) as caught:
        draw(logits, hs.MaskPlan.build([[3, 4], None, bits([9, 10], 40)]), rows)
    assert caught.value.rows == (1, 2)
    drawn = draw(logits, hs.MaskPlan.build([[3, 4], [5, 6], bits([8, 10], 40)]), rows)
    assert drawn.token_ids[2] in (8, 10)
    rows = hs.SamplingRows.build(
        [Row(num_top=0), Row(num_top=0, unmasked=True), Row(unmasked=True)]
    )
    with pytest.raises(hs.BadLogits) as caught:
        draw(logits, hs.MaskPlan.build([[3, 4], [5, 6], [5, 6]]), rows)
    assert caught.value.rows == (1,)


def test_head_sample_hidden_not_finite_is_refused(pack: Any) -> None:
    head, hidden = pack(noise(100, 64)), noise(4, 64)
    hidden[1, 5], hidden[2, 63], hidden[3, 0] = float("nan"), float("inf"), float("nan")
    plan = hs.MaskPlan.build([None, None, [3, 4], [7]])
    with pytest.raises(hs.BadLogits) as caught:
        hs.head_sample(hidden, head, plan, hs.SamplingRows.greedy(4))
    assert caught.value.rows == (1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": [0.0, -1.0]}, "temperature of row 1 is -1.0"),
        ({"temperature": [0.0, np.nan]}, "temperature of row 1 is nan"),
        ({"top_p": [0.5, 0.0]}, "top_p of row 1 is 0.0"),
        ({"min_p": [1.5, 0.0]}, "min_p of row 0 is 1.5"),
        ({"position": [0, -1]}, "position of row 1 is -1"),
        ({"presence": [np.inf, 0]}, "presence of row 0 is inf"),
        ({"top_k": [1]}, r"top_k has shape \(1,\)"),
        ({"bias_ids": [3], "bias_values": [1.0]}, "bias_start must rise"),
        ({"banned_ids": [3, 3], "banned_start": [0, 0, 2]}, "banned_ids of row 1 must ascend"),
        ({"history_ids": [3], "history_start": [0, 1, 1]}, "history_prompt_counts has shape"),
    ],
)
def test_sampling_rows_bad_values_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {"temperature": [0.0, 0.0]}
    with pytest.raises(ValueError, match=message):
        hs.SamplingRows(**(arrays | change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([4],), "values of RowKind"),
        (([1],), "no bitmask"),
        (([1], np.zeros((2, 1), np.uint32)), r"bitmask has shape \(2, 1\)"),
        (([3], None, [1, 2], [0, 2]), "row 0 is FORCED but lists 2 tokens"),
        (([0], None, [1], [0, 1]), "row 0 is FREE but lists 1 tokens"),
        (([2], None, [2, 1], [0, 2]), "few_ids of row 0 must ascend"),
        (([2, 2], None, [2, 5, 1, 1], [0, 2, 4]), "few_ids of row 1 must ascend"),
        (([2], None, [1], [0, 2]), "few_start must rise"),
    ],
)
def test_mask_plan_contradictions_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hs.MaskPlan(*arguments)


def test_head_sample_shapes_that_disagree_are_refused(pack: Any) -> None:
    head = pack(noise(100, 64))
    greedy, free = hs.SamplingRows.greedy, hs.MaskPlan.free
    with pytest.raises(ValueError, match=r"hidden is torch.float64 \(1, 64\)"):
        hs.head_sample(torch.zeros(1, 64).double(), head, free(1), greedy(1))
    with pytest.raises(ValueError, match=r"not float32 \[N, 64\]"):
        hs.head_sample(torch.zeros(1, 32), head, free(1), greedy(1))
    with pytest.raises(ValueError, match="the plan has 1 rows, the sampling 2"):
        hs.head_sample(torch.zeros(1, 64), head, free(1), greedy(2))
    with pytest.raises(ValueError, match="row 1 needs a hidden state"):
        hs.head_sample(torch.zeros(1, 64), head, free(2), greedy(2))
    with pytest.raises(ValueError, match="too short for 100 tokens"):
        mask = hs.MaskPlan.build([np.ones(3, np.uint32)])
        hs.head_sample(torch.zeros(1, 64), head, mask, greedy(1))
    with pytest.raises(ValueError, match="target_ids holds token 100"):
        rows = hs.SamplingRows.build([Row(targets=[100])])
        hs.head_sample(torch.zeros(1, 64), head, free(1), rows)


def test_plan_torch_tensors_are_taken_as_they_are() -> None:
    plan = hs.MaskPlan(
        torch.tensor([1, 2], dtype=torch.uint8),  # type: ignore[arg-type]
        torch.tensor([[-1], [0]], dtype=torch.int32),  # type: ignore[arg-type]
        torch.tensor([4, 6], dtype=torch.int32),  # type: ignore[arg-type]
        torch.tensor([0, 0, 2], dtype=torch.int32),  # type: ignore[arg-type]
    )
    seed = torch.tensor([-1, 0])
    rows = hs.SamplingRows(temperature=torch.ones(2), seed=seed)  # type: ignore[arg-type]
    assert rows.seed.tolist() == [(1 << 64) - 1, 0]
    drawn = torch_draw(noise(2, 32), plan, rows)
    assert drawn.token_ids[1] in (4, 6)
