"""What a process that runs for long must show, while it does: `make soak`, to out/soak.json.

- `line`: what is told of a line, and what one is given to work with;
- `lines`: the lines, a module each: whatever module lies there is one, and no table names it;
- `throttle`: takes half of a processor away;
- `registry`: finds them;
- `alone`: runs one in a process of its own;
- `__main__`: the command line.

A line is a module with `RECIPES`, the recipes below `examples/` whose bundles it takes (or `EXPORTS`, where a bundle in
float for ONNX does, without a search), and `run(setting) -> Line`. It runs in a fresh process: its memory, descriptors
and threads are its own, and one that hangs or crashes stops no other.
"""
