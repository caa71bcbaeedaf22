from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok.errors import RequestError
from guardtok.gateway.routes import UNKNOWN, canonicalize, find, is_guarded

KNOWN = {
    "/v1/chat/completions": "openai.chat",
    "/chat/completions": "openai.chat",
    "/v1/completions": "openai.completions",
    "/v1/responses": "openai.responses",
    "/v1/messages": "anthropic.messages",
    "/v1/messages/count_tokens": "anthropic.messages",
    "/generate": "openai.completions",
    "/inference/v1/generate": "openai.completions",
    "/api/chat": "openai.chat",
    "/api/generate": "openai.completions",
}


@pytest.mark.parametrize(("path", "protocol"), KNOWN.items())
def test_a_known_path_has_its_protocol(path: str, protocol: str) -> None:
    """The paths of the references and the servers are known, and each says how its bodies are walked."""
    route = find("POST", path)
    assert route is not None
    assert route.is_known
    assert route.protocol_of({"model": "m"}) == protocol


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "get"])
def test_what_has_no_body_is_not_guarded(method: str) -> None:
    """A list of models or a preflight passes."""
    assert find(method, "/v1/chat/completions") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY", "BREW"])
def test_any_other_method_is_guarded(method: str) -> None:
    """SGLang takes PUT on /generate; a method that nobody has heard of may have a body, too."""
    assert find(method, "/generate") is not None


def spellings(path: str) -> st.SearchStrategy[str]:
    """Draw other spellings of a path that somebody behind the gateway may read as the same one."""
    segments = path.strip("/").split("/")

    @st.composite
    def draw_one(draw: st.DrawFn) -> str:
        made = ""
        for segment in segments:
            shown = draw(st.sampled_from([segment, segment.upper(), segment.title(), f"{segment};v=1"]))
            if draw(st.booleans()):
                shown = "".join(f"%{ord(c):02x}" if draw(st.booleans()) else c for c in shown)
            slash = draw(st.sampled_from(["/", "//", "/./", "/x/../", "%2F", "\\", "/%2e/"]))
            made += slash + shown
        for _ in range(draw(st.integers(0, 2))):
            made = quote(made, safe="/")
        return made + draw(st.sampled_from(["", "/", "//", "%00", "%20", "/."]))

    return draw_one()


@given(st.sampled_from(sorted(KNOWN)).flatmap(lambda path: st.tuples(st.just(path), spellings(path))))
def test_no_spelling_slips_past(drawn: tuple[str, str]) -> None:
    """However a path is spelled, it is guarded as the path that it may be read as."""
    path, spelled = drawn
    assert find("POST", spelled) == find("POST", path)


@given(st.text(max_size=40))
def test_every_path_is_guarded_unless_a_prefix_says_otherwise(path: str) -> None:
    """By default there is no path on which a body passes, save where ids become text."""
    assert find("POST", path) is not None or path.startswith(("/detokenize", "/v1/detokenize"))


@given(st.text(max_size=40))
def test_canonicalize_is_idempotent(path: str) -> None:
    """The one spelling of a path is its own."""
    assert canonicalize(canonicalize(path)) == canonicalize(path)


@given(st.lists(st.sampled_from(["..", "%2e%2E", ".", "/", "%2F", "\\", "x", ";"]), max_size=8))
def test_dots_lead_out_of_no_prefix(tail: list[str]) -> None:
    """A path that is under the prefix as it stands is guarded, wherever its dots lead."""
    assert is_guarded("/llm/" + "".join(tail), prefixes=("/llm",))


@pytest.mark.parametrize("path", ["http://host/v1/messages", "v1/messages", "*", " /v1/messages", "%2Fv1/messages"])
def test_a_path_is_not_hidden_behind_a_host(path: str) -> None:
    """What does not begin with a slash is cut in different ways, so no body on it passes."""
    assert is_guarded(path, prefixes=("/v1",))


@pytest.mark.parametrize("prefix", ["/llm", "/llm/", "/LLM", "/llm/v1"])
def test_a_prefix_stands_before_the_paths(prefix: str) -> None:
    """A prefix is a folder, with or without the version in it."""
    route = find("POST", "/llm/v1/chat/completions", prefixes=(prefix,))
    assert route is not None
    assert route.protocol == "openai.chat"


def test_a_prefix_may_be_the_version() -> None:
    """`/v1` guards OpenAI's paths and leaves the application its own."""
    assert find("POST", "/v1/chat/completions", prefixes=("/v1",)) == find("POST", "/v1/chat/completions")
    assert find("POST", "/v1/files", prefixes=("/v1",)) is UNKNOWN
    assert find("POST", "/login", prefixes=("/v1",)) is None
    assert find("POST", "/v12/login", prefixes=("/v1",)) is None


def test_an_open_path_is_one_spelling() -> None:
    """A path is opened as it is spelled, and no other way of writing it is."""
    assert find("POST", "/v1/files", open_paths=("/v1/files",)) is None
    for other in ("/v1/files/", "//v1/files", "/V1/files", "/v1/files/../chat/completions"):
        assert find("POST", other, open_paths=("/v1/files",)) is not None


def test_ids_that_become_text_pass() -> None:
    """Nothing that is sent to /detokenize comes into a prompt, but only that spelling is known to be it."""
    assert find("POST", "/detokenize") is None
    assert find("POST", "/detokenize/../generate") is not None
    assert find("POST", "/chat/completions/../../detokenize") is not None


def test_one_body_is_not_two_prompts() -> None:
    """Where the server looks at the body to know what it is, a body that could be two things is refused."""
    route = find("POST", "/invocations")
    assert route is not None
    assert route.protocol_of({"messages": []}) == "openai.chat"
    assert route.protocol_of({"prompt": "x"}) == "openai.completions"
    with pytest.raises(RequestError, match="one of them"):
        route.protocol_of({"messages": [], "prompt": [1]})


@pytest.mark.parametrize("key", ["Messages", "CONTEXT", "me\u017fsages", "\u212aeep_alive"])
def test_ollama_knows_no_key_by_another_case(key: str) -> None:
    """Go's decoder folds case, so a key in another case would be read there and not here."""
    route = find("POST", "/api/chat")
    assert route is not None
    with pytest.raises(RequestError, match="lower case"):
        route.protocol_of({"messages": [], key: []})
