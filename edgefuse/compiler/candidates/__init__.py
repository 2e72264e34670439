"""Files that could run a stage: made (`toolchain`, `aware`) and held to torch (`golden`)."""
