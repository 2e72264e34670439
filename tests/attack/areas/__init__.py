"""One module an area, each with an `AREA`."""
