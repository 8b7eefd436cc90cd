"""From a configuration to the parts of an engine: model, pages, tokenizer, grammars."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from sgrt import ops
from sgrt.config import EngineConfig, available_cpus, resolve
from sgrt.core import ChatTemplate
from sgrt.errors import EngineError, RequestError
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.vocabulary import Vocabulary
from sgrt.models import hub
from sgrt.models.build import build_decoder, build_head, choose_precision, kv_dtype
from sgrt.models.loader import LoadedModel, load
from sgrt.models.tokenizer import Tokenizer
from sgrt.runtime.model_runner import KVGroup, ModelRunner, Runner

GIB = 1 << 30


@dataclass(frozen=True, eq=False)
class Parts:
    """What an engine is made of."""

    name: str
    config: EngineConfig
    runner: Runner
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    grammars: GrammarCompiler
    context_len: int

    @cached_property
    def text_id(self) -> int:
        """Some token that is text: what stands before text appended to a generation."""
        return some_text_id(self.tokenizer)

    @cached_property
    def first_id(self) -> int:
        """The token that stands before a text which nothing precedes: BOS, or the end-of-text
        token where the model has none (in training it stands between texts).

        Raises:
            RequestError: the model has neither.
        """
        bos_id, eos_ids = self.tokenizer.bos_id, self.tokenizer.eos_ids
        if bos_id is None and not eos_ids:
            raise RequestError(f"{self.name} has no token that begins or ends a text")
        return min(eos_ids) if bos_id is None else bos_id


def load_parts(config: EngineConfig) -> Parts:
    """Find, read and place a model, and size its KV pool.

    Raises:
        ModelError: the model cannot be found, read or run here.
        RequestError: an option does not suit this machine or model.
    """
    model = _with_template(load(hub.resolve(config.model)), config)
    config = _decide(config, model)
    assert config.device != "auto"
    decoder = build_decoder(
        model, device=config.device, precision=config.precision, num_threads=config.num_threads
    )
    head = build_head(model, device=config.device, precision=config.precision)
    num_pages = _num_pages(config, model)
    storage = ops.PagedKV.allocate(
        model.spec,
        num_pages,
        config.page_size,
        dtype=kv_dtype(config.precision),
        device=config.device,
    )
    return Parts(
        model.name,
        config,
        ModelRunner(decoder, head, [KVGroup("full", storage)]),
        model.tokenizer,
        model.chat_template,
        _compiler(config, model),
        config.context_len,
    )


def _with_template(model: LoadedModel, config: EngineConfig) -> LoadedModel:
    """The model with the chat template of the configuration, where that names one."""
    if config.chat_template is None:
        return model
    path = Path(config.chat_template).expanduser()
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"chat_template={str(path)!r}: cannot be read: {error}") from error
    return replace(model, tokenizer=model.tokenizer.with_chat_template(source))


def _compiler(config: EngineConfig, model: LoadedModel) -> GrammarCompiler:
    cache = config.grammar_cache
    directory = None if cache is None else own_directory(Path(cache).expanduser())
    return GrammarCompiler(grammar_vocabulary(model.tokenizer), directory=directory)


def own_directory(path: Path) -> Path:
    """The directory of ``grammar_cache``, made where it is missing.

    Raises:
        RequestError: it cannot be written, or others may write what would be taken for compiled.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise RequestError(f"grammar_cache={str(path)!r}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RequestError(f"grammar_cache={str(path)!r}: this process may not write there")
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise RequestError(
            f"grammar_cache={str(path)!r}: others may write there",
            hint="give a directory that is yours and that chmod go-w has been called on",
        )
    return path


def some_text_id(tokenizer: Tokenizer) -> int:
    """A token that is text."""
    special = tokenizer.special_ids
    return next(i for i in range(tokenizer.vocab_size) if i not in special)


def grammar_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer as grammars see it: texts stand in the middle of longer ones."""
    return Vocabulary(
        tokenizer.token_table(),
        special_ids=tokenizer.special_ids,
        eos_id=min(tokenizer.eos_ids),
        encode=partial(tokenizer.encode, after_id=some_text_id(tokenizer)),
        fingerprint=tokenizer.fingerprint,
    )


def _decide(config: EngineConfig, model: LoadedModel) -> EngineConfig:
    """Fix what the user left open, and refuse what cannot be."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and device != "cuda":
        raise RequestError("device='cuda': torch sees no CUDA device")
    config = resolve(config, device=device)
    assert config.device != "auto"
    precision = choose_precision(config.device, config.precision)
    config = resolve(
        config,
        precision=precision,
        num_threads=available_cpus(),
        context_len=model.context_len,
    )
    if config.context_len > model.context_len:
        raise RequestError(
            f"context_len={config.context_len}: the model was made for {model.context_len}"
        )
    return config


def _num_pages(config: EngineConfig, model: LoadedModel) -> int:
    """Pages for ``kv_tokens``, or for a share of the free memory where that is 0."""
    page_bytes = ops.PagedKV.page_bytes(model.spec, config.page_size, kv_dtype(config.precision))
    budget, total = _memory(config.device)
    wanted = -(-config.kv_tokens // config.page_size) if config.kv_tokens else budget // page_bytes
    num_pages = max(2, wanted)
    if num_pages * page_bytes > total:
        raise EngineError(
            f"kv_tokens={config.kv_tokens}, page_size={config.page_size}: {num_pages} KV pages of "
            f"{page_bytes} bytes do not fit into {total} bytes of memory"
        )
    return num_pages


def _memory(device: str) -> tuple[int, int]:
    """Bytes to use by default (most of a GPU's free memory; of main memory a quarter of it, up
    to 4 GiB), and bytes there are."""
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * 0.8), free
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = (os.sysconf(name) * page for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
    return min(4 * GIB, free // 4), total
