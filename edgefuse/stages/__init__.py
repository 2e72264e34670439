"""From a model to stages (`stage`, `explicit`), generated inputs (`examples`), `agreement` with torch."""
