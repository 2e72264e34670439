"""Tokenizers: the `tokenizer.json` that computes what the folder's tokenizer computes."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from edgefuse.bundle.spec import text
from edgefuse.bundle.tokenizer.check import read_tokenizer
from edgefuse.errors import BundleError, ModelError
from edgefuse.models.pretrained.folder import Folder, offline, processor_of
from edgefuse.models.pretrained.inputs import Input

NAME, FILE = "text", "tokenizer.json"
_PUNCTUATION = r"[!-/:-@\[-`{-~]"
_PROBES = (
    "A photo of a cat.",
    "two  dogs, and one bird:\tin the SNOW!",
    "Größe und Übermut; l'été s'achève (42 %).",
    "word " * 600,
)


def writing(folder: Folder, most: int, *, fixed: bool = False, length: bool = True, optional: bool = False) -> Input:
    """Return the modality `text` as the folder's tokenizer prepares it.

    Args:
        folder: that holds the tokenizer.
        most: tokens that the model takes.
        fixed: whether shorter texts are always padded to as many.
        length: whether the model is told how many tokens there are.
        optional: whether a text may be absent.

    Raises:
        ModelError: if there is no tokenizer, or one that cannot be used on a device.
    """
    tokenizer = processor_of(folder, "AutoTokenizer")
    _require_files(folder, tokenizer)
    most = min(most, int(tokenizer.model_max_length))
    if tokenizer.padding_side != "right":
        raise folder.refused("has a tokenizer that pads on the left", fix=f"set its padding_side to 'right'; or {_OWN}")
    with offline(f"the tokenizer of the pretrained model {folder.path} cannot be written as a {FILE}"):
        data = _written(folder, tokenizer, most)
    try:
        read_tokenizer(FILE, data, most)
    except BundleError as error:
        raise ModelError(f"the pretrained model {folder.path} cannot be used: {error}") from error
    modality = text(
        NAME, tokenizer=FILE, max_length=most, pad_id=tokenizer.pad_token_id or 0, variable=not fixed, optional=optional
    )
    padding = {"padding": "max_length"} if fixed else {}

    def processed(raw: str) -> Any:
        return tokenizer([raw], truncation=True, max_length=most, return_tensors="np", **padding)["input_ids"]

    modality = msgspec.structs.replace(modality, length=length)
    return Input(modality=modality, processed=processed, probes=_PROBES, assets={FILE: data})


_OWN = "write a factory, named as [model] factory"


def _require_files(folder: Folder, tokenizer: Any) -> None:
    """Refuse a tokenizer that was made of nothing, or has more tokens than the model: the library takes both."""
    names = sorted({FILE, *tokenizer.vocab_files_names.values()})
    if not any((folder.path / name).exists() for name in names):
        raise folder.refused("has no tokenizer", got=f"none of {', '.join(names)}", fix="save its tokenizer there, too")
    settings = folder.settings.get("text_config") or folder.settings
    taken = int(settings.get("vocab_size") or len(tokenizer))
    if len(tokenizer) > taken:
        raise folder.refused(
            "has a tokenizer of another model",
            got=f"{len(tokenizer)} tokens",
            expected=f"at most {taken}",
            fix="save its own",
        )


def _written(folder: Folder, tokenizer: Any, most: int) -> bytes:
    """Return a tokenizer as JSON, with its own truncation; padding stands in the modality."""
    from tokenizers import Tokenizer

    if type(tokenizer).__name__ == "SiglipTokenizer":
        made = _of_sentencepiece(tokenizer)
    elif getattr(tokenizer, "is_fast", False):
        made = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    else:
        raise folder.refused(
            f"has a tokenizer that computes in Python: {type(tokenizer).__name__}", expected=f"one with a {FILE}"
        )
    made.no_padding()
    made.enable_truncation(most, direction=tokenizer.truncation_side)
    return str(made.to_str()).encode()


def _of_sentencepiece(tokenizer: Any) -> Any:
    """Return SigLIP's tokenizer, which cleans a text in Python and cuts it up by SentencePiece."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import import_protobuf

    pieces, protobuf = tokenizer.sp_model, cast(Any, import_protobuf)()
    proto = protobuf.ModelProto.FromString(pieces.serialized_model_proto())
    vocabulary = [(pieces.id_to_piece(number), pieces.get_score(number)) for number in range(pieces.get_piece_size())]
    made = Tokenizer(models.Unigram(vocabulary, pieces.unk_id()))
    steps: list[Any] = [normalizers.Lowercase()] if tokenizer.do_lower_case else []
    steps += [normalizers.Replace(Regex(_PUNCTUATION), ""), normalizers.Replace(Regex(r"\s+"), " ")]
    steps += [normalizers.Strip()]
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    end = (str(tokenizer.eos_token), tokenizer.eos_token_id)
    made.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    return made
