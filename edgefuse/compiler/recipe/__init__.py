"""The recipe: `recipe` reads and checks it."""
