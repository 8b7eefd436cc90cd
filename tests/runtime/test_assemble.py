"""From a configuration to an engine's parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgrt.backends.local import Engine
from sgrt.config import EngineConfig
from sgrt.core import Message
from sgrt.errors import ModelError, RequestError
from sgrt.runtime.assemble import load_parts
from tests.models.tiny import tiny_model_dir


def test_a_chat_template_of_the_configuration_replaces_the_models(tmp_path: Path) -> None:
    model = str(tiny_model_dir(tmp_path / "m"))
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    config = EngineConfig(model=model, chat_template=file, kv_tokens=64)
    with Engine.from_parts(load_parts(config)) as engine:
        assert engine.chat_template is not None
        parts = engine.chat_template.render([Message("user", "hi")])
    assert "".join(part.text for part in parts) == "<hi>"


@pytest.mark.parametrize(
    ("content", "kind"), [(b"{% for %}", ModelError), (b"\xff", RequestError), (None, RequestError)]
)
def test_a_chat_template_that_cannot_be_used_is_refused(
    content: bytes | None, kind: type[Exception], tmp_path: Path
) -> None:
    file = tmp_path / "template.jinja"
    if content is not None:
        file.write_bytes(content)
    config = EngineConfig(model=str(tiny_model_dir(tmp_path / "m")), chat_template=file)
    with pytest.raises(kind):
        load_parts(config)
