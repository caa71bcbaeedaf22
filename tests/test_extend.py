"""`guardtok.extend`: new tokens in a vocabulary of tiktoken's, and what keeps them from doing harm."""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from strategies import encoding

from guardtok import Extended, Guard, Policy, RefusedError, extend
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.errors import ExtensionError, TokenizerError, UnknownTokenizerError
from guardtok.extending.built import CONTEXTS
from guardtok.extension import Placement
from guardtok.finding import Severity
from guardtok.placing import MAX_FORM_CHARS, gaps, reserved_slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.tokenizer import Tokenizer

BASE = encoding(["<|extra_0|>", "<|extra_1|>", "<|endoftext|>"])
"""256 bytes and 15 merges, then a hole up to 1000, where two reserved slots and one token stand."""

STRICT = Policy.parse(
    "guardtok: 1\nsources: {template: {default: allow}, user: {default: escape}}\nforeign: ignore\nlookalikes: ignore\n"
)

# Bracketed, so that none begins with another one.
FORMS = st.text(st.sampled_from("ab é漢_"), min_size=1, max_size=5).map("<{}>".format)


def codes(findings: Any) -> set[str]:  # noqa: ANN401 - whatever holds findings
    """Return the codes of findings that are no mere notes."""
    return {finding.code for finding in findings if finding.severity is not Severity.NOTE}


def test_extend_is_a_function_of_the_package() -> None:
    """`guardtok.extend` can be called however it was imported, and no module hides it."""
    import guardtok.extending.extend

    assert guardtok.extend is extend is guardtok.extending.extend.extend
    assert isinstance(guardtok.extend(BASE, ["<|x|>"]), Extended)


def test_the_notebooks_tokens_in_gpt2(vocab: Callable[[str], Tokenizer]) -> None:
    """The well-known example comes out as its author shows it, and old text as before."""
    base = vocab("gpt2").encoding  # type: ignore[attr-defined]
    made = extend(base, ["MyNewToken_1", "MyNewToken_2"])
    text = "Sample text with MyNewToken_1 and MyNewToken_2. <|endoftext|>"
    ids = [36674, 2420, 351, 220, 50257, 290, 220, 50258, 13, 220, 50256]
    assert made.encoding.encode(text, allowed_special="all") == ids
    assert (made.extension.base_rows, made.extension.rows) == (50257, 50259)
    assert made.extension.tokens[0].pieces == tuple(base.encode_ordinary("MyNewToken_1"))
    assert codes(made.report) == {"bare-word"}
    assert base.n_vocab == 50257
    assert "MyNewToken_1" not in base.special_tokens_set


@given(
    forms=st.lists(FORMS, min_size=1, max_size=6, unique=True),
    scheme=st.sampled_from(["auto", "append", "gaps"]),
    numbers=st.lists(st.integers(300, 1500), min_size=6, max_size=6, unique=True),
    pinned=st.booleans(),
)
def test_new_tokens_are_read_and_nothing_old_moves(
    forms: list[str], scheme: str, numbers: list[int], *, pinned: bool
) -> None:
    """Whatever tokens and ids: old ids keep their bytes, and each new form is its id for a source that may write it."""
    wanted = {form: id_ for form, id_ in zip(forms[1:], numbers, strict=False) if id_ not in {1000, 1001, 1002}}
    made = extend(BASE, forms, wanted if pinned else scheme)
    before = {id_: BASE.decode_single_token_bytes(id_) for id_ in (*range(271), 1000, 1001, 1002)}
    assert {id_: made.encoding.decode_single_token_bytes(id_) for id_ in before} == before
    ids = [token.id for token in made.extension.tokens]
    assert len({*ids, *before}) == len(ids) + len(before)
    assert not pinned or wanted.items() <= {token.form: token.id for token in made.extension.tokens}.items()
    assert made.extension.rows == made.encoding.n_vocab == max(1003, *(id_ + 1 for id_ in ids))
    guard = Guard(STRICT, made.tokenizer, sinks=())
    for token in made.extension.tokens:
        for left, right in (CONTEXTS[0], *CONTEXTS[token.id % 5 :: 5]):
            text = left + token.form + right
            assert made.encoding.encode(text, allowed_special="all").count(token.id) == 1
            assert guard.encode(text, source="template").ids.count(token.id) == 1
            assert token.id not in guard.encode(text, source="user").ids
            assert made.encoding.decode(guard.encode(text, source="user").ids) == text


def test_there_is_no_window() -> None:
    """Whatever of an extension is given to a guard, the new token is a form that untrusted text cannot write."""
    made = extend("guardtok", ["<|tool|>"])
    id_ = made.extension.tokens[0].id
    for tokenizer in (made, made.tokenizer, made.encoding, pickle.loads(pickle.dumps(made))):  # noqa: S301 - our own
        guard = Guard.load("chatml", tokenizer, sinks=())
        assert guard.encode("<|tool|>", source="template").ids == [id_]
        assert id_ not in guard.encode("a<|tool|>b", source="user").ids
        assert guard.check("<|tool|>", source="user").count == 1
    with pytest.raises(ValueError, match="disallowed special token"):
        made.encoding.encode("<|tool|>")


def test_gaps_of_cl100k(vocab: Callable[[str], Tokenizer]) -> None:
    """There are sixteen, they are used from the lowest, and one more is refused; a model need not grow for them."""
    base = vocab("cl100k_base")
    assert list(gaps(base)) == [100256, *range(100261, 100276)]
    made = extend(base, [f"<|t{i:02}|>" for i in range(16)], "gaps")
    assert [token.id for token in made.extension.tokens] == list(gaps(base))
    assert made.extension.rows == made.extension.base_rows == 100277
    # cl100k_im, which has the same ordinary tokens, calls two of them its own.
    claimed = [finding.fact for finding in made.report if finding.code == "id-claimed"]
    assert [fact.partition(" is ")[0] for fact in claimed] == ["Its id 100264", "Its id 100265"]
    with pytest.raises(ExtensionError, match="16 gaps are free, and 17 tokens need one"):
        extend(base, [f"<|t{i:02}|>" for i in range(17)], "gaps")


def test_a_reserved_slot_is_taken_over(vocab: Callable[[str], Tokenizer]) -> None:
    """The slot's id is the new token's, and its old form is ordinary text from then on."""
    base = vocab("qwen")
    made = extend(base, ["<|tool|>", "<|/tool|>"], "reserved")
    assert [(token.id, token.replaces) for token in made.extension.tokens] == [
        (151646, "<|extra_0|>"),
        (151647, "<|extra_1|>"),
    ]
    assert made.extension.rows == made.extension.base_rows
    slot = made.encoding.encode("<|extra_0|>", allowed_special="all")
    assert slot == base.encode_ordinary("<|extra_0|>", at_start=True)
    assert made.encoding.decode([151646]) == "<|tool|>"
    assert len(reserved_slots(made.tokenizer)) == 203


def test_what_is_no_reserved_slot(vocab: Callable[[str], Tokenizer]) -> None:
    """A slot whose id has a second form is somebody's, and so is a token that only has a name of that kind."""
    assert 200018 not in reserved_slots(vocab("o200k_harmony"))
    named = encoding(
        ["<|pad|>", "<extra_id_0>", "<|endofprompt|>", "[MASK]", "<|reserved_special_token_7|>", "<unused3>"]
    )
    assert list(reserved_slots(TiktokenTokenizer(named)).values()) == ["<|reserved_special_token_7|>", "<unused3>"]


def test_two_forms_of_one_id_are_reported(vocab: Callable[[str], Tokenizer]) -> None:
    """o200k_harmony has two strings under 200018; an extension of it says so."""
    made = extend(vocab("o200k_harmony"), ["<|tool|>"])
    found = [finding for finding in made.report if finding.code == "base-id-twice"]
    assert len(found) == 1
    assert "200018" in found[0].fact


def test_auto_keeps_what_is_there() -> None:
    """A token that the base has keeps its id under `auto`, and is refused where a new one was asked for."""
    made = extend(BASE, ["<|endoftext|>", "<|x|>"])
    assert [(token.id, token.placement) for token in made.extension.tokens] == [
        (1002, Placement.PRESENT),
        (1003, Placement.APPEND),
    ]
    for scheme in ("append", "gaps", "reserved", {"<|endoftext|>": 1003}):
        with pytest.raises(ExtensionError, match="a special token with the id 1002 already"):
            extend(BASE, ["<|endoftext|>"], scheme)  # type: ignore[arg-type]  # Each is a scheme.


def test_a_mapping_may_name_a_slot_and_leave_tokens_out() -> None:
    """An id of a reserved slot takes it over; what has no id gets the next one that nobody asked for."""
    made = extend(BASE, ["<|x|>", "<|y|>", "<|z|>"], {"<|y|>": 1001, "<|z|>": 1003})
    assert [(token.id, token.placement.value) for token in made.extension.tokens] == [
        (1004, "append"),
        (1001, "reserved"),
        (1003, "append"),
    ]


@pytest.mark.parametrize(
    ("tokens", "ids", "code"),
    [
        ([""], "auto", "form-invalid"),
        (["\ud800"], "auto", "form-invalid"),
        ([" \n"], "auto", "form-invalid"),
        ([5], "auto", "form-invalid"),
        ([["<|x|>"]], "auto", "form-invalid"),
        (["x" * (MAX_FORM_CHARS + 1)], "auto", "form-invalid"),
        ("<|x|>", "auto", "form-invalid"),
        pytest.param(b"<|x|>", "auto", "form-invalid", id="bytes"),
        ([], "auto", "form-invalid"),
        (None, "auto", "form-invalid"),
        (["<|x|>", "<|x|>"], "auto", "form-twice"),
        ([f"<|{i}|>" for i in range(100_000)], "auto", "too-many-tokens"),
        (["<|x|>"], "gap", "ids-invalid"),
        (["<|x|>"], None, "ids-invalid"),
        (["<|x|>"], 7, "ids-invalid"),
        (["<|x|>"], {"<|x|>": True}, "id-invalid"),
        (["<|x|>"], {"<|x|>": 2000.0}, "id-invalid"),
        (["<|x|>"], {"<|x|>": "2000"}, "id-invalid"),
        (["<|x|>"], {"<|x|>": -1}, "id-invalid"),
        (["<|x|>"], {"<|x|>": 2**32}, "id-invalid"),
        (["<|x|>"], {"<|x|>": 65}, "id-taken"),
        (["<|x|>"], {"<|x|>": 1002}, "id-taken"),
        (["<|x|>", "<|y|>"], {"<|x|>": 2000, "<|y|>": 2000}, "id-taken"),
        (["<|x|>"], {"<|y|>": 2000}, "id-of-nothing"),
        (["<|x|>", "<|y|>", "<|z|>"], "reserved", "too-few-ids"),
        (["<|x|>", "<|x|>y"], "auto", "overlap-prefix"),
        (["<|endoftext|>!"], "auto", "overlap-prefix"),
        (["<|end"], "auto", "overlap-prefix"),
    ],
)
def test_what_cannot_be_added(tokens: Any, ids: Any, code: str) -> None:  # noqa: ANN401 - wrong on purpose
    """Each is one typed error that builtin handlers catch, names the check, and repeats no form as it is."""
    with pytest.raises(ExtensionError) as raised:
        extend(BASE, tokens, ids)
    assert codes(raised.value.findings) == {code}
    assert isinstance(raised.value, (TokenizerError, ValueError))
    assert not any(form in str(raised.value) for form in ("<|x|>", "<|endoftext|>"))
    assert pickle.loads(pickle.dumps(raised.value)).findings == raised.value.findings  # noqa: S301 - our own


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "é", "x" * 65, "-x", "a\n"])
def test_a_name_is_a_name(name: str) -> None:
    """It becomes a file's name, so nothing that leads elsewhere is one."""
    with pytest.raises(ExtensionError, match="name-invalid"):
        extend(BASE, ["<|x|>"], name=name)


def test_a_name_belongs_to_one_vocabulary() -> None:
    """Neither the base's nor a known one's is given again, and by default other tokens make another name."""
    for name in (BASE.name, "gpt2", "cl100k_im"):
        with pytest.raises(ExtensionError, match="name-taken"):
            extend(BASE, ["<|x|>"], name=name)
    names = {extend(BASE, tokens).extension.name for tokens in (["<|x|>"], ["<|y|>"], ["<|y|>", "<|x|>"])}
    assert len(names) == 3
    assert extend(BASE, ["<|x|>"]).extension.name in names
    assert extend(BASE, ["<|x|>"], name="mine").encoding.name == "mine"


def test_what_is_no_base() -> None:
    """A base that is none is a typed error."""
    for base in (5, None, object()):
        with pytest.raises(TokenizerError):
            extend(base, ["<|x|>"])
    with pytest.raises(UnknownTokenizerError):
        extend("cl200k", ["<|x|>"])
    with pytest.raises(ExtensionError, match="overlap-invalid"):
        extend(BASE, ["<|x|>"], overlap="shortest")  # type: ignore[arg-type]  # Wrong on purpose.


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ("tool", "ordinary-text"),
        ("MyNewToken", "bare-word"),
        ("<|", "one-piece"),
        (" <|x|>", "edge-space"),
        ("<|x\u200b|>", "unprintable"),
        ("<|ENDOFTEXT|>", "lookalike"),
        ("<\uff5cendoftext\uff5c>", "lookalike"),
        ("[<|endoftext|>]", "overlap-inside"),
        ("[<", "overlap-border"),
    ],
)
def test_what_is_doubtful_is_said(form: str, code: str) -> None:
    """The token is added, and the report names what may surprise."""
    if form == "<|":  # It is the beginning of every other token here.
        assert code in codes(extend(encoding(["[EOS]"]), [form]).report)
    else:
        assert code in codes(extend(BASE, [form]).report)


def test_ids_that_leave_holes_are_said() -> None:
    """A model has a row for each id below the highest, used or not."""
    found = [each.fact for each in extend(BASE, ["<|x|>"], {"<|x|>": 1013}).report if each.code == "ids-with-holes"]
    assert found == ["10 ids between the base's highest and the new ones are nobody's: a model gets a row for each."]


@pytest.mark.parametrize("count", [20, 200])
def test_tokens_that_begin_with_one_another(count: int) -> None:
    """With `overlap="longest"` they are added, said to be doubtful, and a guard reads the longest."""
    forms = [f"X{i}" for i in range(1, count)]
    with pytest.raises(ExtensionError, match="overlap-prefix"):
        extend(BASE, forms)
    made = extend(BASE, forms, overlap="longest")
    assert "overlap-prefix" in codes(made.report)
    guard = Guard(STRICT, made.tokenizer, sinks=())
    ids = {token.form: token.id for token in made.extension.tokens}
    assert all(guard.encode(form, source="template").ids == [id_] for form, id_ in ids.items())


def test_a_base_with_custom_tokens_gives_them_on() -> None:
    """What a policy or a caller added to a tokenizer is a special token of the new encoding."""
    base = TiktokenTokenizer(BASE, custom_tokens={"<|c|>": 1003})
    made = extend(base, ["<|x|>"])
    assert made.encoding.encode("<|c|><|x|>", allowed_special="all") == [1003, 1004]
    assert made.extension.base_fingerprint == base.fingerprint


def test_an_extension_can_be_extended() -> None:
    """Adding twice comes to the same as adding at once."""
    twice = extend(extend(BASE, ["<|x|>"]), ["<|y|>"])
    once = extend(BASE, ["<|x|>", "<|y|>"])
    assert twice.extension.fingerprint == once.extension.fingerprint


def test_a_policys_tokens_are_placed_by_the_same_rules() -> None:
    """A custom token's id is what `extend` gives it, and what `extend` refuses a guard refuses alike."""
    head = "guardtok: 1\nsources: {template: {default: allow}}\nlookalikes: ignore\ncustom_tokens: "
    guard = Guard(Policy.parse(head + "{'<|x|>': auto, '<|y|>': 1004, '<|endoftext|>': auto}"), TiktokenTokenizer(BASE))
    ids = {"<|y|>": 1004}
    made = extend(BASE, ["<|x|>", "<|y|>", "<|endoftext|>"], ids)
    assert guard.tokenizer is not None
    assert guard.tokenizer.control_tokens == made.tokenizer.control_tokens
    for custom, code in (("'<|x|>': 65", "id-taken"), ("'<|endoftext|>': 7000", "form-taken"), ("' ': 7000", "")):
        with pytest.raises(ValueError, match=code or "white space|pattern"):
            Guard(Policy.parse(f"{head}{{{custom}}}"), TiktokenTokenizer(BASE))
    # A policy adds and takes nothing away, so a reserved slot stays what it is.
    with pytest.raises(ExtensionError, match="id-taken"):
        Guard(Policy.parse(head + "{'<|x|>': 1000}"), TiktokenTokenizer(BASE))


def test_a_library_that_places_tokens_elsewhere_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old ids, ordinary text and contexts are checked on what was built, not on what was meant."""

    def careless(self: TiktokenTokenizer, name: str, ids: dict[str, int], without: object = ()) -> TiktokenTokenizer:
        ranks = {**self.encoding._mergeable_ranks, b"th": 990}
        special = {"<|extra_0|>": 1000, "<|endoftext|>": 1001, **{form: id_ + 1 for form, id_ in ids.items()}}
        return TiktokenTokenizer(
            tiktoken.Encoding(name, pat_str=self.encoding._pat_str, mergeable_ranks=ranks, special_tokens=special)
        )

    monkeypatch.setattr(TiktokenTokenizer, "extended", careless)
    with pytest.raises(ExtensionError) as raised:
        extend(BASE, ["<|x|>"])
    assert codes(raised.value.findings) == {"old-ids-changed", "ordinary-changed", "context"}


def test_tiktoken_that_fails_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of the library's is a TokenizerError without a traceback into it."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("<|x|>")

    monkeypatch.setattr(tiktoken, "Encoding", fail)
    with pytest.raises(TokenizerError, match="4 special tokens: ValueError") as raised:
        TiktokenTokenizer(BASE).extended("mine", {"<|x|>": 1003})
    assert raised.value.__context__ is None


def test_the_report_is_printed_line_by_line() -> None:
    """Each finding is a line: severity, code, place, fact, mend."""
    report = extend(BASE, ["NewToken"], name="mine").report
    lines = str(report).splitlines()
    assert len(lines) == len(report.findings)
    assert lines[0].startswith("warning bare-word at N_ewToken: It is a bare word")
    assert [finding.code for finding in report.of(Severity.NOTE)] == ["old-ids-kept", "ordinary-kept", "contexts-kept"]


def test_a_refused_text_names_the_new_token() -> None:
    """A policy can block the new token like any other."""
    policy = Policy.parse("guardtok: 1\nsources: {user: {default: block}}\nlookalikes: ignore\n")
    with pytest.raises(RefusedError):
        Guard(policy, extend(BASE, ["<|x|>"]).tokenizer, sinks=()).encode("<|x|>", source="user")


def test_any_iterable_of_tokens_will_do() -> None:
    """And one without an end is refused."""
    assert extend(BASE, (f"<|{i}|>" for i in range(3))).extension.rows == 1006
    with pytest.raises(ExtensionError, match="too-many-tokens"):
        extend(BASE, (f"<|{i}|>" for i in itertools.count()))


def test_load_tokenizer_takes_what_extend_returned() -> None:
    """And gives the tokenizer in it."""
    made = extend(BASE, ["<|x|>"])
    assert load_tokenizer(made) is made.tokenizer
