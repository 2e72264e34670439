"""Whether bundles give the same answers everywhere: processors, Python versions, versions of the runtimes."""
