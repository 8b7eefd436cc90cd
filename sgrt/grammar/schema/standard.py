"""The schemas that the standard describes schemas by, as a package carries them."""

from __future__ import annotations

from typing import Any

_HOSTS = ("http://json-schema.org/draft-", "https://json-schema.org/draft/")
HINT = "pip install jsonschema-specifications"


def is_one(uri: str) -> bool:
    """Whether a URI without fragment looks like one of theirs."""
    return uri.startswith(_HOSTS)


def schema(uri: str) -> Any:
    """The schema at a URI; None where there is none, or the package is not installed.

    Cost: 0.1 s the first time.
    """
    try:
        from jsonschema_specifications import REGISTRY
    except ImportError:
        return None
    return REGISTRY.contents(uri) if uri in REGISTRY else None
