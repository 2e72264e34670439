"""The recipe: what to compile, for which targets, within which budget.

- `variants`: the prunings that are asked for, checked;
- `described`: where the model comes from, and what it is where it cannot say so;
- `steps`: the rungs for a device that slows down;
- `recipe`: the sections of the file, read and checked;
- `keywords`: the same sections as keywords of a call, where there is no file;
- `max_drop`: the budget: a number, or a share of the reference's metric;
- `wanted`: the same for the targets that a command line names;
- `gpu`: a record of `make gpu`, read and checked;
- `factory`: calls the user's `module:callable`.
"""
