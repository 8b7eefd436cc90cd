"""The line that errors name."""

import inspect

from sgrt.lang.where import here, place, spelled


def line():
    return inspect.currentframe().f_back.f_lineno


def test_place_in_long_and_nested_code_spells_the_line_that_runs():
    found = [(here(), line()), *[(here(), line()) for _ in range(2)], (lambda: (here(), line()))()]
    exec("\n" * 300 + "found.append((here(), line()))", globals() | {"found": found})
    assert found[-1][1] == 301
    assert [told.rpartition(":")[2] for told, _ in found] == [str(number) for _, number in found]
    assert spelled(place()).startswith(__file__)
