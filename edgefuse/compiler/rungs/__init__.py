"""Operating points: chosen (`rungs`), judged and timed (`final`), put into bundles (`assemble`)."""
