"""A model taken apart (`subject`), its data made ready (`splits`), held to each other (`data_checks`)."""
