"""The recipe: what to compile, for which targets, within which budget.

- `recipe`: the sections of the file, read and checked;
- `gpu`: a record of `make gpu`, read and checked;
- `factory`: calls the user's `module:callable`.
"""
