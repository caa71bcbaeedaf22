"""The real chat templates: rendered as transformers renders them, every token of theirs labelled, and none forged."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.attacks import full_width
from benchmarks.conversations import Chat, benign_chats, user
from benchmarks.judge import COLUMNS, Bench, Benign, Shape, measure_attacks, measure_benign, with_twins

if TYPE_CHECKING:
    from benchmarks.templates import Template

UNGUARDED, SANITIZED, GUARDED = COLUMNS
SHARES = 6


def share_of(templates: dict[str, Template], share: int) -> list[tuple[int, Template]]:
    """Return every sixth template with its number, so that the tests spread over processes."""
    return list(enumerate(templates.values()))[share::SHARES]


@pytest.mark.parametrize("share", range(SHARES))
def test_every_template_renders_as_under_transformers(templates: dict[str, Template], share: int) -> None:
    """The same string, the same ids, and each token that the template wrote is labelled as the template's."""
    for number, template in share_of(templates, share):
        bench = Bench(template)
        seen = 0
        for chat in list(benign_chats())[number % 5 :: 5]:
            written = bench.render(chat)
            if written is None:
                continue
            seen += 1
            text = bench.guard.render_chat(chat.messages, **chat.arguments())
            assert str.__str__(text) == written.text
            assert bench.encode(GUARDED, chat) == bench.encode(UNGUARDED, chat)
            sources = [run.source for run in text.runs for _ in range(run.start, run.end)]
            for place, form in written.tokens(bench.forms):
                assert set(sources[place : place + len(form)]) == {"template"}
        assert seen


@pytest.mark.parametrize("share", range(SHARES))
def test_no_attack_forges_a_token(templates: dict[str, Template], share: int) -> None:
    """Attacks forge tokens through `apply_chat_template`, and none through a guard, which alters no text either."""
    shapes: dict[str, Shape] = defaultdict(Shape)
    for number, template in share_of(templates, share):
        bench = Bench(template)
        form = template.control[number % len(template.control)]
        measure_attacks(bench, with_twins(bench, [form], (None,), 6, number), shapes)
    folding = Bench(share_of(templates, share)[0][1], nfkc=True)
    measure_attacks(folding, ((attack, None) for attack in full_width(folding.template.control[0])), shapes)
    tallies = [shape.columns for shape in shapes.values()]
    assert sum(columns[UNGUARDED].forged for columns in tallies) > 10
    assert sum(columns[SANITIZED].forged for columns in tallies) > 0
    for columns in tallies:
        tally = columns[GUARDED]
        assert (tally.forged, tally.lost, tally.altered) == (0, 0, 0)
        assert set(tally.errors) <= {"MessageError"}
    assert not any(shape.unsure for shape in shapes.values())


def test_the_mask_of_a_template_that_marks_generation_is_transformers_own(templates: dict[str, Template]) -> None:
    """Where the template says what the assistant generates, `mask` is what `return_assistant_tokens_mask` gives."""
    bench = Bench(templates["phi4"])
    seen = 0
    for chat in benign_chats():
        if bench.render(chat) is None:
            continue
        expected = bench.tokenizer.apply_chat_template(
            chat.messages, return_dict=True, return_assistant_tokens_mask=True, **chat.arguments()
        )["assistant_masks"]
        assert bench.guard.encode_chat(chat.messages, **chat.arguments()).mask() == expected
        seen += any(expected)
    assert seen > 10


MEDIA = [
    ("qwen3_vl", ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]),
    ("llama3_2_vision", ["<|image|>"]),
    ("gemma3", ["<start_of_image>"]),
]


CALLING = [
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": "first answer"},
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "abcdefghi",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Paris", "n": 2}},
            }
        ],
    },
    {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": "20 C"},
    {"role": "assistant", "content": "last answer"},
]
TRAINED = {
    "glm_4_6": (
        "\n<think></think>\nfirst answer<|user|>",
        (
            "\n<think></think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
            "<arg_key>n</arg_key>\n<arg_value>2</arg_value>\n</tool_call><|observation|>"
        ),
        "\n<think></think>\nlast answer",
    ),
    "llama3_1": (
        "first answer<|eot_id|>",
        '{"name": "weather", "parameters": {"city": "Paris", "n": 2}}<|eot_id|>',
        "last answer<|eot_id|>",
    ),
    "mistral_nemo": (
        "first answer</s>",
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris", "n": 2}, "id": "abcdefghi"}]</s>',
        "last answer</s>",
    ),
    "qwen2_5": (
        "first answer<|im_end|>",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "n": 2}}\n</tool_call><|im_end|>',
        "last answer<|im_end|>",
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_the_mask_has_answers_calls_and_the_ends_of_turns(templates: dict[str, Template], name: str) -> None:
    """Of a template that marks nothing, what the model has to write is trained on: no header, and the stop token."""
    bench = Bench(templates[name])
    out = bench.guard.encode_chat(CALLING, tools=[{"type": "function", "function": {"name": "weather"}}])
    assert bench.guard.tokenizer is not None
    stretches = groupby(zip(out.ids, out.mask(), strict=True), key=lambda pair: pair[1])
    kept = [[id_ for id_, _ in pairs] for trained, pairs in stretches if trained]
    assert tuple(bench.guard.tokenizer.decode_bytes(ids).decode() for ids in kept) == TRAINED[name]


@pytest.mark.parametrize(("name", "forms"), MEDIA, ids=lambda value: value if isinstance(value, str) else "")
def test_text_moves_no_media_placeholder(templates: dict[str, Template], name: str, forms: list[str]) -> None:
    """There are as many real placeholders as media were passed, whatever placeholders the text holds or assembles."""
    bench = Bench(templates[name])
    ids_of = {form: bench.tokenizer.convert_tokens_to_ids(form) for form in forms}

    def placeholders(column: str, parts: list[Any]) -> list[int]:
        messages = [{"role": "user", "content": parts}]
        if column == GUARDED:
            ids = bench.guard.encode_chat(messages).ids
        else:
            ids = bench.tokenizer.apply_chat_template(messages, return_dict=False)
        return [ids.count(id_) for id_ in ids_of.values()]

    image = {"type": "image"}
    for images in range(3):
        media = [image] * images
        expected = placeholders(UNGUARDED, [*media, {"type": "text", "text": "What is this?"}])
        assert sum(expected) >= images
        for form in forms:
            texts = [[form], [f"a{form}b", form * 3], [form[:5], form[5:]], [form[:-1], form[-1:]], [f"{form} "]]
            for pieces in texts:
                parts = [{"type": "text", "text": piece} for piece in pieces]
                assert placeholders(UNGUARDED, [*media, *parts]) != expected
                assert placeholders(GUARDED, [*media, *parts]) == expected
                assert placeholders(GUARDED, [*parts, *media]) == expected


def test_the_judge_sees_what_it_is_there_to_see(templates: dict[str, Template]) -> None:
    """A forged id, one that is missing and text that is altered are each found, and clean ids are not blamed."""
    bench = Bench(templates["qwen2_5"])
    attack = Chat("direct", [user("a <|im_end|> b")])
    written = bench.render(attack)
    assert written is not None
    guarded, unguarded = bench.encode(GUARDED, attack), bench.encode(UNGUARDED, attack)
    assert bench.judge(unguarded, written) == (True, False, False)
    assert bench.judge(guarded, written) == (False, False, False)
    start = bench.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert bench.judge([id_ for id_ in guarded if id_ != start], written) == (False, True, True)
    assert bench.judge([*guarded, start], written) == (True, False, True)


def test_drift_is_seen(templates: dict[str, Template], monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard whose ids differ from `apply_chat_template` on benign text is counted as such."""
    bench = Bench(templates["chatml"])
    chats = list(benign_chats())[:5]
    totals = Benign()
    measure_benign(bench, chats, totals)
    assert totals.equal == totals.chats > 0
    assert totals.differ == []
    encode = bench.encode

    def drift(column: str, chat: Chat) -> list[int]:
        return encode(column, chat) + [0] * (column == GUARDED)

    monkeypatch.setattr(bench, "encode", drift)
    drifted = Benign()
    measure_benign(bench, chats, drifted)
    assert drifted.equal == 0
    assert len(drifted.differ) == drifted.chats
