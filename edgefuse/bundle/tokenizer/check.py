"""Check a `tokenizer.json` in full: each part by itself, and the parts against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec

from edgefuse.bundle.layout import ASSETS, quoted, twice
from edgefuse.bundle.spec import ModelSpec, TextPreprocess
from edgefuse.bundle.tokenizer.excerpt import longest_excerpt
from edgefuse.bundle.tokenizer.parts import (
    BPE,
    MAX_DEPTH,
    MAX_STEPS,
    MAX_TOKENIZER_BYTES,
    AddedToken,
    BertProcessing,
    ByteLevel,
    Processor,
    Processors,
    RobertaProcessing,
    TemplateProcessing,
    TokenizerFile,
    Unigram,
    WordLevel,
    WordPiece,
)
from edgefuse.bundle.tokenizer.steps import StepError, growth
from edgefuse.errors import BundleError
from edgefuse.typed_json import decode

MAX_TRIE_BYTES = 2**22
"""Of all tokens of Unigram together: each may be a node."""
MAX_ADDED_CHARACTERS = 2**20
"""Of all added tokens together, grown by normalizing: the library builds an automaton of them, 80 bytes for each."""
_Applied: TypeAlias = BertProcessing | RobertaProcessing | TemplateProcessing | ByteLevel
_FIX = "edgefuse takes what docs/bundle-format.md lists; save the tokenizer without this"


def check_tokenizer(model: ModelSpec, path: str, data: bytes) -> None:
    """Check a file of a bundle if it is the tokenizer of a modality.

    Args:
        model: whose modalities name tokenizers.
        path: of the file in the bundle.
        data: its content.

    Raises:
        BundleError: it is one, and not a tokenizer that is taken, or leaves no room for text.
    """
    texts = [each for each in (m.preprocess for m in model.modalities) if isinstance(each, TextPreprocess)]
    lengths = [each.max_length for each in texts if ASSETS + each.tokenizer == path]
    for length in sorted({min(lengths), max(lengths)} if lengths else ()):
        read_tokenizer(path, data, length)


def read_tokenizer(name: str, data: bytes, max_length: int) -> TokenizerFile:
    """Return a tokenizer, having checked that the library can open it and will not fall over a text.

    Args:
        name: for messages.
        data: the JSON text.
        max_length: the number of tokens that a text may have, special ones included.

    Raises:
        BundleError: it is malformed, has a part that is not taken, or its parts do not fit.
    """
    if len(data) > MAX_TOKENIZER_BYTES:
        raise _refused(name, f"is too large: {len(data)} bytes, at most {MAX_TOKENIZER_BYTES} are taken")
    try:
        tokenizer = decode(data, TokenizerFile)
    except msgspec.MsgspecError as error:
        raise BundleError(f"the tokenizer {quoted(name)} cannot be read", got=quoted(str(error)), fix=_FIX) from error
    except RecursionError as error:
        raise _refused(name, "is nested too deeply") from error
    try:
        grown = growth(tokenizer.normalizer, tokenizer.pre_tokenizer, longest_excerpt(max_length))
        ids = _model_ids(tokenizer.model)
        _check_added(tokenizer.added_tokens, ids, grown)
        known = {*ids.values(), *(token.id for token in tokenizer.added_tokens)}
        added = _special_ids(tokenizer.post_processor)
        if unknown := sorted(set(added) - known):
            raise _RefusalError(f"adds the id {unknown[0]}, which no token has")
    except (StepError, _RefusalError) as error:
        raise _refused(name, str(error)) from error
    if len(added) >= max_length:
        raise _refused(name, f"adds {len(added)} special tokens to a text of at most {max_length}")
    return tokenizer


class _RefusalError(ValueError):
    """Why a tokenizer is refused, as the end of a sentence."""


def _refused(name: str, reason: str) -> BundleError:
    return BundleError(f"the tokenizer {quoted(name)} {reason}", fix=_FIX)


def _model_ids(model: WordPiece | WordLevel | BPE | Unigram) -> Mapping[str, int]:
    """Return the id of each token of a model, having checked that no token or id is there twice."""
    if isinstance(model, Unigram):
        _check_unigram(model)
        return {token: index for index, (token, _) in enumerate(model.vocab)}
    ids = model.vocab
    if len(set(ids.values())) != len(ids):
        raise _RefusalError("has two tokens with one id")
    if isinstance(model, BPE):
        _check_merges(model)
    return ids


def _check_unigram(model: Unigram) -> None:
    if token := twice(token for token, _ in model.vocab):
        raise _RefusalError(f"has the token {quoted(token)} twice")
    if model.unk_id is not None and model.unk_id >= len(model.vocab):
        raise _RefusalError(f"has no token {model.unk_id}, which stands for unknown text")
    if sum(len(token.encode()) for token, _ in model.vocab) > MAX_TRIE_BYTES:
        raise _RefusalError(f"has tokens of more than {MAX_TRIE_BYTES} bytes in all")


def _check_merges(model: BPE) -> None:
    """Check that what is merged, and what comes of it, are tokens; a prefix is dropped from the second in between."""
    if model.dropout:
        raise _RefusalError("drops merges at random")
    prefix = model.continuing_subword_prefix or ""
    for merge in model.merges:
        first, second = merge if isinstance(merge, tuple) else _parted(merge)
        if not second.startswith(prefix):
            raise _RefusalError(f"merges {quoted(second)}, which has not the prefix {quoted(prefix)}")
        for token in (first, second, first + second[len(prefix) :]):
            if token not in model.vocab:
                raise _RefusalError(f"merges tokens to or from {quoted(token)}, which is no token")


def _parted(merge: str) -> tuple[str, str]:
    parts = merge.split(" ")
    if len(parts) != 2:
        raise _RefusalError(f"has the merge {quoted(merge)}, which is not two tokens")
    return parts[0], parts[1]


def _check_added(tokens: tuple[AddedToken, ...], ids: Mapping[str, int], grown: float) -> None:
    """Check that added tokens get the ids that they have in the file: the library numbers them by itself."""
    if content := twice(token.content for token in tokens):
        raise _RefusalError(f"adds the token {quoted(content)} twice")
    if sum(len(token.content) for token in tokens) * grown > MAX_ADDED_CHARACTERS:
        raise _RefusalError("adds tokens that are too long in all")
    taken, following = set(ids.values()), len(ids)
    for token in tokens:
        given = ids.get(token.content, following)
        if token.content not in ids:
            following += 1
            if given in taken:
                raise _RefusalError(f"adds a token {quoted(token.content)}, whose id another one has")
        if given != token.id:
            raise _RefusalError(f"adds the token {quoted(token.content)} as {token.id}, which would become {given}")


def _special_ids(processor: Processor | None) -> list[int]:
    """Return the ids that post-processors add to a text, having checked that they can be applied to one."""
    flat = list(_flat(processor))
    adding = [each for each in flat if not isinstance(each, ByteLevel)]
    if len(flat) > MAX_STEPS or len(adding) > 1:
        raise _RefusalError("has several post-processors that add tokens")
    if not adding:
        return []
    only = adding[0]
    return _template_ids(only) if isinstance(only, TemplateProcessing) else [only.cls[1], only.sep[1]]


def _flat(processor: Processor | None, depth: int = 0) -> Iterator[_Applied]:
    """Yield post-processors without the sequences that they stand in."""
    if depth > MAX_DEPTH:
        raise _RefusalError("has sequences in sequences")
    if isinstance(processor, Processors):
        for each in processor.processors:
            yield from _flat(each, depth + 1)
    elif processor is not None:
        yield processor


def _template_ids(template: TemplateProcessing) -> list[int]:
    for token in template.special_tokens.values():
        if len(token.ids) != len(token.tokens):
            raise _RefusalError(f"has a special token {quoted(token.id)} with more ids than tokens, or fewer")
    for piece in (*template.single, *template.pair):
        if (piece.sequence is None) == (piece.special is None):
            raise _RefusalError("has a template with a part that is not either text or a special token")
        if piece.special and piece.special.id not in template.special_tokens:
            raise _RefusalError(f"has no special token {quoted(piece.special.id)}, which its template has")
    if [piece.sequence.id for piece in template.single if piece.sequence] != ["A"]:
        raise _RefusalError("has a template of which the text is not one part")
    specials = (piece.special for piece in template.single if piece.special)
    return [number for special in specials for number in template.special_tokens[special.id].ids]
