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
    openapi,
)
from sgrt.server.http import App, Route
from sgrt.server.service import Service


def build_app(service: Service) -> App:
    """The ASGI application over a service."""
    routes = ROUTES
    if service.config.metrics_no_auth:
        routes = [replace(r, access="open") if r.path == "/metrics" else r for r in ROUTES]
    about = Route("GET", "/openapi.json", openapi.handler(routes, meta.version()))
    return App(service, [*routes, about])


STREAM = ("application/json", "text/event-stream")


ROUTES = [
    Route("GET", "/health", meta.health, "open", media=()),
    Route("GET", "/ping", meta.health, "open", media=()),
    Route("GET", "/ready", meta.ready, "open"),
    Route("GET", "/health_generate", meta.health_generate, media=()),
    Route("GET", "/version", meta.show_version),
    Route("GET", "/metrics", meta.metrics, media=("text/plain", "application/openmetrics-text")),
    Route("GET", "/v1/models", meta.models),
    Route("GET", "/v1/models/*", meta.model),
    Route(
        "POST",
        "/v1/chat/completions",
        openai_chat.chat_completions,
        body=openai_chat.ChatRequest,
        media=STREAM,
    ),
    Route(
        "POST",
        "/v1/completions",
        openai_completions.completions,
        body=openai_completions.CompletionRequest,
        media=STREAM,
    ),
    Route(
        "POST",
        "/v1/responses",
        openai_responses.responses,
        body=openai_responses.ResponsesRequest,
        media=STREAM,
    ),
    Route("GET", "/v1/responses/*", openai_responses.stored_response),
    Route("DELETE", "/v1/responses/*", openai_responses.delete_response),
    Route("POST", "/v1/decisions", decisions.decisions, body=decisions.DecisionRequest),
    Route("POST", "/generate", native.generate, body=native.GenerateRequest, media=STREAM),
    Route("GET", "/model_info", meta.model_info),
    Route("GET", "/get_model_info", meta.model_info),
    Route("GET", "/server_info", meta.server_info),
    Route("GET", "/get_server_info", meta.server_info),
    Route("GET", "/v1/loads", meta.loads),
    Route("GET", "/get_load", meta.loads),
    Route("POST", "/tokenize", meta.tokenize, body=meta.TokenizeRequest),
    Route("POST", "/v1/tokenize", meta.tokenize, body=meta.TokenizeRequest),
    Route("POST", "/detokenize", meta.detokenize, body=meta.DetokenizeRequest),
    Route("POST", "/v1/detokenize", meta.detokenize, body=meta.DetokenizeRequest),
    Route("GET", "/tokenizer_info", meta.tokenizer_info),
    Route("POST", "/abort_request", meta.abort_request, body=meta.AbortRequest),
    Route("POST", "/flush_cache", meta.flush_cache, "admin", query=("timeout",)),
    Route("GET", "/flush_cache", meta.flush_cache, "admin", query=("timeout",)),
    Route("POST", "/reset_prefix_cache", meta.flush_cache, "admin"),
]
"""Those of ``access="admin"`` need the admin key. Where there is none but other keys are, they do
not exist; where there are no keys at all, everybody may call them (SGLang's clients do)."""
