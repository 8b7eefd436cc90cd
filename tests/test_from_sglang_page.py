"""The page for those who come from SGLang tells what is there, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sgrt

PAGE = Path(__file__).resolve().parents[1] / "docs" / "from-sglang.md"
PUBLIC = {
    *("function", "gen", "gen_int", "gen_string", "select", "system", "user", "assistant"),
    *("system_begin", "system_end", "user_begin", "user_end", "assistant_begin", "assistant_end"),
    *("separate_reasoning", "image", "video", "set_default_backend", "global_config"),
    *("greedy_token_selection", "token_length_normalized", "unconditional_likelihood_normalized"),
    *("flush_cache", "get_server_info", "Engine", "Runtime", "RuntimeEndpoint", "OpenAI"),
    *("ServerArgs", "Anthropic", "Crusoe", "LiteLLM", "VertexAI"),
}
"""What ``sglang.__all__`` has in 0.5.23, but for its version."""


def told() -> dict[str, str]:
    """Per name of the page's first table, what it says."""
    rows = PAGE.read_text(encoding="utf-8").partition("## Arguments")[0].splitlines()
    cells = [row.split(" | ") for row in rows if row.startswith("| `")]
    return {name: what for names, what in cells for name in re.findall(r"`(\w+)`", names)}


def test_page_names_all_that_is_public_there() -> None:
    assert set(told()) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_name_is_there_or_refused_by_name_as_the_page_says(name: str) -> None:
    if not told()[name].startswith("refused"):
        assert getattr(sgrt, name) is not None
    elif hasattr(sgrt, name):
        with pytest.raises(sgrt.RequestError, match=name):
            getattr(sgrt, name)("file")
    else:
        with pytest.raises(AttributeError, match=f"{name}.*use sgrt"):
            getattr(sgrt, name)
