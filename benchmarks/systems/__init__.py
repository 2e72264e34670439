"""The reference models as the systems that people build, each compiled and held to what it must show: `make systems`.

- `catalogue`: the models that the examples describe, the recipe of each, and what is composed of several;
- `record`: what is told of a system, all of one model read from its compile's `report.json`;
- `composed`: what a system of several models answers;
- `verdicts`: what a system must show;
- `page`: the tables in `docs/systems.md`;
- `__main__`: the command line.

Nothing here names a system: a folder of `examples/` with `models.json` and a recipe is one, and one with a
`composition.json` is one of several models.
"""
