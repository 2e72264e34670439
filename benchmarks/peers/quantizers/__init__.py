"""How each peer makes its file: `build(setting, subject, folder)` returns its files, the one to open first."""
