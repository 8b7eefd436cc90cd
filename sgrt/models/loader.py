"""From model files to what the engine runs: spec, weights, tokenizer, chat template.

A file is checked against the architecture before anything is computed: every tensor that the
arithmetic needs is there with its shape, and nothing is there that it would ignore.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sgrt import ops
from sgrt.errors import CorruptModel, ModelNotFound
from sgrt.models.chat_template import JinjaChatTemplate
from sgrt.models.gguf import GgufFile
from sgrt.models.registry import GGUF_NAMES, HF_NAMES, Architecture, by_gguf_name, by_hf_class
from sgrt.models.safetensors_ import SafetensorsDir
from sgrt.models.spec import ModelSpec, from_config, from_gguf
from sgrt.models.tokenizer import Tokenizer
from sgrt.models.weights import read_weights

if TYPE_CHECKING:
    from sgrt.models.hub import ModelFiles


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that has been read and checked, not yet placed on a device.

    Args:
        name: for people.
        architecture: name in the registry.
        spec: the arithmetic.
        weights: as in the files, memory-mapped; a tied head is the embedding itself.
        tokenizer: of this model; it knows the chat template and which tokens end a text.
        context_len: most positions that the model was made for.
    """

    name: str
    architecture: str
    spec: ops.DecoderSpec
    weights: ops.DecoderWeights
    tokenizer: Tokenizer
    context_len: int

    @property
    def chat_template(self) -> JinjaChatTemplate | None:
        """How the model spells conversations; None where it has no template."""
        return self.tokenizer.chat_template

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text, or an assistant's turn."""
        return self.tokenizer.eos_ids

    @property
    def bos_id(self) -> int | None:
        """Token that begins a text, or None."""
        return self.tokenizer.bos_id

    @property
    def add_bos(self) -> bool:
        """Whether a session begins with `bos_id`."""
        return self.tokenizer.add_bos


def load(files: ModelFiles | str | Path) -> LoadedModel:
    """Read and check a model.

    Args:
        files: what `hub.resolve` found, a directory in the layout of transformers
            (config.json, *.safetensors, tokenizer.json), or a GGUF file.

    Raises:
        ModelNotFound: nothing is there.
        CorruptModel: a file is damaged, or tensors are missing, superfluous or misshapen.
        ModelError: the model asks for something that is not implemented; names the field.

    Cost: reads the metadata and tokenizer; weights are mapped, not read.
    """
    if isinstance(files, (str, Path)):
        path = Path(files)
        name = path.name if path.is_dir() else path.stem
    else:
        path, name = files.path, files.name
    return _load_directory(path, name) if path.is_dir() else _load_gguf(path, name)


def _load_directory(path: Path, name: str) -> LoadedModel:
    config = _read_config(path / "config.json")
    arch = by_hf_class(config.get("architectures"))
    model = from_config(arch, config)
    weights = read_weights(
        SafetensorsDir.open(path), HF_NAMES, model.decoder, tied=model.tied, interleaved=False
    )
    return _assemble(name, path, arch, model, weights, Tokenizer.open(path))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFound(str(path.parent), f"the directory has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModel(path, f"not readable as JSON: {error}") from error
    if not isinstance(config, dict):
        raise CorruptModel(path, f"holds a {type(config).__name__}, expected an object")
    return config


def _load_gguf(path: Path, name: str) -> LoadedModel:
    file = GgufFile.open(path)
    arch = by_gguf_name(file.metadata.get("general.architecture"))
    model = _gguf_spec(file, arch)
    weights = read_weights(
        _GgufTensors(file),
        GGUF_NAMES,
        model.decoder,
        tied=model.tied,
        interleaved=arch.gguf_interleaved,
    )
    return _assemble(name, path, arch, model, weights, Tokenizer.open(file))


def _gguf_spec(file: GgufFile, arch: Architecture) -> ModelSpec:
    embed = file.tensors.get(GGUF_NAMES.embed)
    if embed is None:
        raise CorruptModel(file.path, f"tensor {GGUF_NAMES.embed!r} is missing")
    return from_gguf(
        arch,
        file.metadata,
        vocab_size=embed.shape[0],
        qkv_bias=GGUF_NAMES.layer["q_bias"].format(i=0) in file.tensors,
        o_bias=GGUF_NAMES.layer["o_bias"].format(i=0) in file.tensors,
        tied=GGUF_NAMES.head not in file.tensors,
        rope_divisors=_rope_divisors(file),
    )


def _rope_divisors(file: GgufFile) -> torch.Tensor | None:  # [C/2] float32
    name = "rope_freqs.weight"
    return ops.dequantize(file.raw(name)) if name in file.tensors else None


@dataclass(frozen=True)
class _GgufTensors:
    """A GGUF file as a `weights.TensorSource`."""

    file: GgufFile

    @property
    def path(self) -> Path:
        return self.file.path

    def names(self) -> Iterable[str]:
        return self.file.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self.file.tensors[name].shape

    def raw(self, name: str) -> ops.RawWeight:
        return self.file.raw(name)


def _assemble(
    name: str,
    path: Path,
    arch: Architecture,
    model: ModelSpec,
    weights: ops.DecoderWeights,
    tokenizer: Tokenizer,
) -> LoadedModel:
    if tokenizer.vocab_size > model.decoder.vocab_size:
        raise CorruptModel(
            path,
            f"the tokenizer has {tokenizer.vocab_size} ids, "
            f"the embedding {model.decoder.vocab_size} rows",
        )
    return LoadedModel(
        name=name,
        architecture=arch.name,
        spec=model.decoder,
        weights=weights,
        tokenizer=tokenizer,
        context_len=model.context_len,
    )
