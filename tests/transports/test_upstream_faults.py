"""What the model's server does wrong, and what a client is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Served, answer_text, serving, text_of
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        (Script(status=401), "upstream_unauthorized", ""),
        (Script(status=404), "upstream_model_not_found", ""),
        (Script(status=429, retry_after=1), "upstream_rate_limited", ""),
        (Script(status=500), "upstream_unavailable", ""),
        (Script(cut=-1), "upstream_unavailable", ""),
        (Script(stall="headers"), "upstream_timeout", ""),
        (Script(stall=0), "upstream_timeout", ""),
        (Script(stall=3), "upstream_timeout", "w0 w1 w2 "),
        (Script(cut=3), "upstream_interrupted", "w0 w1 w2 "),
        (Script(cut=3, cut_by="rst"), "upstream_interrupted", "w0 w1 w2 "),
        (Script(garbage_at=3), "upstream_garbage", "w0 w1 w2 "),
    ],
)
async def test_a_fault_has_its_code_and_keeps_the_text(
    upstream: Upstream, state: Path, script: Script, code: str, text: str
) -> None:
    """The answer fails with a clear code, what was seen is kept, and the socket lives."""
    upstream.queue(script, Script(tokens=("Well.",)))
    async with (
        serving(
            state,
            upstream=upstream,
            first_token_timeout_s=0.5,
            token_timeout_s=0.5,
        ) as served,
        served.talk() as talk,
    ):
        end = (await talk.answer(FERRY))[-1]
        assert end["type"] == "response.failed"
        response = end["response"]
        assert response["ragsocket"]["code"] == code
        assert response["ragsocket"].get("retry_after_s") == script.retry_after
        assert response["error"]["code"] in ("server_error", "rate_limit_exceeded")
        assert "scripted" not in str(response["error"])
        # A reset may throw away what the model had written; what was shown is what is kept.
        seen = text_of(talk.seen)
        assert answer_text(response) == seen
        assert seen == text or (script.cut_by == "rst" and text.startswith(seen))
        assert (await talk.answer(FERRY))[-1]["type"] == "response.completed"
    kept = (await upstream.request(1)).messages
    assert [m["role"] for m in kept] == ["system", "user", "assistant", "user"]
    if seen:
        assert kept[2]["content"] == seen


async def test_a_server_that_is_not_there(served: Served, upstream: Upstream) -> None:
    """A refused connection fails with its code, and the next ask finds a server that is back."""
    upstream.stop()
    async with served.talk() as talk:
        end = (await talk.answer(FERRY))[-1]
        assert end["response"]["ragsocket"]["code"] == "upstream_unavailable"
        async with Upstream(port=int(upstream.url.split(":")[2].split("/")[0])):
            assert (await talk.answer(FERRY))[-1]["type"] == "response.completed"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_model_that_stops_early_says_so(
    served: Served, upstream: Upstream, reason: str
) -> None:
    """A token limit or a filter ends the answer as incomplete, with the standard's reason."""
    upstream.queue(Script(finish_reason=reason))
    async with served.talk() as talk:
        end = (await talk.answer(FERRY))[-1]
    assert end["type"] == "response.incomplete"
    expected = "max_output_tokens" if reason == "length" else reason
    assert end["response"]["status"] == "incomplete"
    assert end["response"]["incomplete_details"] == {"reason": expected}


async def test_the_log_has_no_secret_and_the_client_no_exception(
    upstream: Upstream, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is in no log line, and no exception text reaches the client."""
    upstream.queue(Script(status=500, error="internal detail"))
    async with (
        serving(state, upstream=upstream, llm_api_key="canary-key-1") as served,
        served.talk() as talk,
    ):
        await talk.answer(FERRY)
    assert (await upstream.request(0)).headers["authorization"] == "Bearer canary-key-1"
    assert "canary-key-1" not in caplog.text
    assert "internal detail" not in str(talk.seen)
    assert "Traceback" not in str(talk.seen)
