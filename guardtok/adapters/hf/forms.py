"""What a tokenizer's forms are to a guard: which ids they reserve, how the model spells them, what can turn into them.

The library's own tables say which tokens were added. They do not say that the model holds the same string in its own
vocabulary, that the normaliser makes it out of other characters, or that a post-processor writes a token which nobody
added. Whatever is missed here could be forged, so everything is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardtok.adapters.hf.spelling import byte_characters
from guardtok.dialects import role_of
from guardtok.errors import ExtensionError
from guardtok.placing import MAX_ID, refuse_form, refuse_id, refuse_present
from guardtok.tokenizer import ControlToken, Pattern, TokenClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import tokenizers

    from guardtok.adapters.hf.copies import Copies
    from guardtok.adapters.hf.document import AddedToken, Document


class Forms:
    """Answers for one tokenizer.

    Args:
        document: The tokenizer, written out.
        bare: Its model, and nothing else.
        copies: Its copies that parse no control token.
    """

    def __init__(self, document: Document, bare: tokenizers.Tokenizer, copies: Copies) -> None:
        self._document = document
        self._bare = bare
        self._copies = copies

    def find_undeclared(self, declared: set[str]) -> Iterator[ControlToken]:
        """Yield the control tokens that are not added: the post-processor's, and spellings that the model parses."""
        for form, id_ in _processor_tokens(self._document.parts["post_processor"]):
            if form not in declared:
                declared.add(form)
                yield ControlToken(form, id_, role_of(form, id_))
        model = self._document.model
        spellings = {TokenClass.BYTE: [f"<0x{byte:02X}>" for byte in range(256)] if model.get("byte_fallback") else []}
        if model.get("unk_token"):
            spellings[TokenClass.UNKNOWN] = [model["unk_token"]]
        for kind, forms in spellings.items():
            for form in forms:
                own = self._bare.token_to_id(form)
                if own is None or form in declared:
                    continue
                if self._copies.encode(form, at_start=True)[-1:] == [own]:
                    yield ControlToken(form, own, role_of(form, own), kind, special=False)

    def find_patterns(self, tokens: Iterable[ControlToken]) -> Iterator[tuple[str, Pattern]]:
        """Yield how the tokens that are `normalized` are spelled in normalised text."""
        for token in tokens:
            if not token.normalized:
                continue
            if not self._copies.normalizes:
                yield token.form, Pattern(token.form, 0)
                continue
            text = self._copies.normalize(token.form)
            core = self._copies.normalize_form(token.form)
            if core and text.endswith(core):
                yield token.form, Pattern(text, len(text) - len(core))
            elif text:
                yield token.form, Pattern(text, 0)

    def find_reserved(self, tokens: Iterable[ControlToken]) -> Iterator[int]:
        """Yield the ids that no ordinary text may come out as."""
        for token in tokens:
            if token.kind is not TokenClass.CONTROL:
                continue
            yield token.id
            # Text that spells one character cannot be cut apart, so its ordinary id has to stay what it becomes.
            for spelled in self._spellings(token.form) if len(token.form) > 1 else ():
                own = self._bare.token_to_id(spelled)
                if own is not None:
                    yield own

    def find_folds(self, tokens: Iterable[ControlToken]) -> Iterator[tuple[str, str]]:
        """Yield the forms that the normaliser can make of other characters and that then become ids."""
        if not self._copies.normalizes:
            return
        parts = self._document.normalizers
        plain = all(
            part["type"] == "Prepend" or (part["type"] == "Replace" and "String" in part["pattern"] and part["content"])
            for part in parts
        )
        made = {char for part in parts for char in part.get("content", "")}
        for token in tokens:
            core = self._copies.normalize_form(token.form)
            if not core or (plain and made.isdisjoint(core)):
                continue
            if token.normalized or any(
                self._bare.token_to_id(each) is not None for each in self._spellings(token.form)
            ):
                yield token.form, core

    def _spellings(self, form: str) -> set[str]:
        """Return how the model may spell a form in its own vocabulary."""
        spelled = {form, self._copies.normalize_form(form)}
        if self._document.byte_level:
            table = byte_characters()
            spelled |= {"".join(table[byte] for byte in each.encode()) for each in spelled}
        for blank in self._document.blanks:
            spelled |= {each.replace(" ", blank) for each in spelled}
        return spelled

    def refuse_collisions(self, own: Mapping[str, int], custom: Mapping[str, int], free: int) -> None:
        """Raise where an id could mean two things, for then no check of ids proves anything.

        Args:
            own: Ids by form of the tokenizer's tokens.
            custom: Those of the custom tokens.
            free: The first id that is free.

        Raises:
            ExtensionError: There is such an id; holds everything that is wrong.
        """
        taken = set(own.values())
        problems = []
        for form, id_ in custom.items():
            problem = refuse_form(form, "custom token")
            if problem is None and form in own:
                problem = refuse_present(form, own[form])
            if problem is None:
                # An ordinary token has the id, or another added one.
                there = type(id_) is int and 0 <= id_ <= MAX_ID and self._bare.id_to_token(id_) is not None
                problem = refuse_id(form, id_, {*taken, id_} if there else taken, free)
            if problem is not None:
                problems.append(problem)
                continue
            taken.add(id_)
            free = max(free, id_ + 1)
        if problems:
            raise ExtensionError(problems)


def as_control_token(token: AddedToken, kind: TokenClass) -> ControlToken:
    """Return an added token as guardtok has it."""
    return ControlToken(
        token.content,
        token.id,
        role_of(token.content, token.id),
        kind,
        special=token.special,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
        normalized=token.normalized,
    )


def _processor_tokens(tree: Any) -> Iterator[tuple[str, int]]:  # noqa: ANN401 - JSON values
    """Yield form and id of every token that a post-processor names."""
    if isinstance(tree, list):
        for each in tree:
            yield from _processor_tokens(each)
    elif isinstance(tree, dict):
        for key in ("sep", "cls"):
            if key in tree:
                yield tree[key][0], tree[key][1]
        for token in tree.get("special_tokens", {}).values():
            yield from zip(token["tokens"], token["ids"], strict=True)
        yield from _processor_tokens(tree.get("processors", []))
