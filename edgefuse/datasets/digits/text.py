"""Spelled-out digits in several languages, with typing errors, and their character tokenizer."""

from __future__ import annotations

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import Split

MAX_LENGTH = 24

WORDS: dict[str, tuple[str, ...]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "it": ("zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"),
    "nl": ("nul", "een", "twee", "drie", "vier", "vijf", "zes", "zeven", "acht", "negen"),
    "sv": ("noll", "ett", "två", "tre", "fyra", "fem", "sex", "sju", "åtta", "nio"),
    "pl": ("zero", "jeden", "dwa", "trzy", "cztery", "pięć", "sześć", "siedem", "osiem", "dziewięć"),
}

_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?'-äöüßéèêàâçñóòíìúùåøæąćęłńśźż"


def _neighbours() -> dict[str, str]:
    """Map every letter to the letters beside it on a QWERTY keyboard."""
    places = {key: (row, column) for row, keys in enumerate(_KEYBOARD) for column, key in enumerate(keys)}
    return {
        key: "".join(k for k, (r, c) in places.items() if k != key and abs(r - row) <= 1 and -1 <= c - column <= 1)
        for key, (row, column) in places.items()
    }


_NEIGHBOURS = _neighbours()


def misspell(word: str, errors: int, rng: np.random.Generator) -> str:
    """Return the word with that many typing errors: a deletion, a swap, a neighbouring key or a doubled letter.

    Args:
        word: to change.
        errors: how many.
        rng: draws them.
    """
    letters = list(word)
    for _ in range(errors):
        place = int(rng.integers(len(letters)))
        kind = int(rng.integers(5))
        if kind == 0 and len(letters) > 1:
            del letters[place]
        elif kind == 1 and len(letters) > 1:
            place = min(place, len(letters) - 2)
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
        elif kind == 2:
            letters.insert(place, letters[place])
        else:
            beside = _NEIGHBOURS.get(letters[place], _CHARACTERS[:26])
            letters[place] = beside[int(rng.integers(len(beside)))]
    return "".join(letters)


def write(digit: int, rng: np.random.Generator, *, mean_errors: float) -> str:
    """Spell a digit in a random language with at least one typing error, `mean_errors` on average.

    Args:
        digit: 0 to 9.
        rng: draws language and errors.
        mean_errors: per text.
    """
    language = sorted(WORDS)[int(rng.integers(len(WORDS)))]
    errors = 1 + int(rng.poisson(mean_errors - 1))
    return misspell(WORDS[language][digit], errors, rng)[:MAX_LENGTH]


def tokenizer() -> Tokenizer:
    """Build the character tokenizer: NFC, lower case, one token a character, `<pad>` 0 and `<unk>` 1."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<unk>", *_CHARACTERS])}
    built = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    built.normalizer = NormalizerSequence([NFC(), Lowercase()])
    built.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    return built


def vocabulary_size() -> int:
    """Return the number of tokens."""
    return len(_CHARACTERS) + 2
