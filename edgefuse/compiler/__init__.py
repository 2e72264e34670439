"""From a recipe to candidates, a search and checked bundles."""
