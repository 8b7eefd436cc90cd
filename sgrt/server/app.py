"""Every route, and who may call it."""

from __future__ import annotations

from dataclasses import replace

from sgrt.server import (
    decisions,
    meta,
    native,
    openai_chat,
    openai_completions,
    openai_responses,
)
from sgrt.server.http import App, Route
from sgrt.server.service import Service


def build_app(service: Service) -> App:
    """The ASGI application over a service."""
    routes = ROUTES
    if service.config.metrics_no_auth:
        routes = [replace(r, access="open") if r.path == "/metrics" else r for r in ROUTES]
    return App(service, routes)


ROUTES = [
    Route("GET", "/health", meta.health, "open"),
    Route("GET", "/ping", meta.health, "open"),
    Route("GET", "/ready", meta.ready, "open"),
    Route("GET", "/health_generate", meta.health_generate),
    Route("GET", "/version", meta.show_version),
    Route("GET", "/metrics", meta.metrics),
    Route("GET", "/v1/models", meta.models),
    Route("GET", "/v1/models/*", meta.model),
    Route("POST", "/v1/chat/completions", openai_chat.chat_completions),
    Route("POST", "/v1/completions", openai_completions.completions),
    Route("POST", "/v1/responses", openai_responses.responses),
    Route("POST", "/v1/decisions", decisions.decisions),
    Route("POST", "/generate", native.generate),
    Route("GET", "/model_info", meta.model_info),
    Route("GET", "/get_model_info", meta.model_info),
    Route("GET", "/server_info", meta.server_info),
    Route("GET", "/get_server_info", meta.server_info),
    Route("GET", "/v1/loads", meta.loads),
    Route("GET", "/get_load", meta.loads),
    Route("POST", "/tokenize", meta.tokenize),
    Route("POST", "/detokenize", meta.detokenize),
    Route("GET", "/tokenizer_info", meta.tokenizer_info),
    Route("POST", "/abort_request", meta.abort_request),
    Route("POST", "/flush_cache", meta.flush_cache, "admin"),
    Route("GET", "/flush_cache", meta.flush_cache, "admin"),
]
"""Those of ``access="admin"`` need the admin key. Where there is none but other keys are, they do
not exist; where there are no keys at all, everybody may call them (SGLang's clients do)."""
