"""The `tokenizer.json` in a bundle: what of that format is taken, checked before the library `tokenizers` sees it.

The library trusts its file: it panics, ends the process or takes gigabytes where a number, a pattern or a table in it
is wrong. In the order in which a file passes through them:

- `parts`: the format as types, which are the list of what is allowed;
- `patterns`: what a regular expression costs;
- `charsmap`: the table of a `Precompiled` normalizer;
- `excerpt`: the part of a text that is looked at;
- `steps`: what normalizers and pre-tokenizers make of a text, at worst;
- `check`: vocabulary, added tokens and post-processors, and the whole.
"""
