"""The reference models as the systems that people build, each compiled and held to what it must show: `make systems`.

- `catalogue`: the models that the examples describe, and the recipe of each;
- `record`: what is told of a system, all of it read from a compile's `report.json`;
- `verdicts`: what a system must show;
- `page`: the table in `docs/systems.md`;
- `__main__`: the command line.

Nothing here names a system: a folder of `examples/` with `models.json` and a recipe is one.
"""
