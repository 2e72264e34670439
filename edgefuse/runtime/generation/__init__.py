"""From logits to tokens: greedy, sampling, beam search; frame labels to text (CTC).

- `config`: `GenerationConfig`: how tokens are chosen;
- `step`: what one step of a decoder takes and gives;
- `sampling`: the distribution that a token is drawn from;
- `beams`: beam search;
- `tokens`: `generate`: token by token;
- `ctc`: best path and prefix beam search, chunk by chunk.
"""
