"""Files that could run a stage: made, held to torch, and run over the validation set.

- `schemes`: which schemes to try on a stage;
- `built`: one candidate;
- `toolchain`: a target's tools, which make the files;
- `golden`: the golden table: every file against torch;
- `target_data`: a target's candidates on the data, and what they answer;
- `calibrating`: what schemes are applied to;
- `joined`: the candidates of a joined target;
- `build`: the candidates of all targets, made by workers.
"""
