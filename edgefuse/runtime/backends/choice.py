"""Which backend opens which file of a bundle."""

from __future__ import annotations

from dataclasses import replace

from edgefuse import registry
from edgefuse.bundle.manifest import Candidate, Manifest
from edgefuse.errors import BackendError
from edgefuse.runtime.backends.backend import Backend, Session, SessionOptions

NOTHING = "null"
"""The backend that runs nothing."""


class Backends:
    """The runtimes of a bundle's files, each created when the first file needs it.

    Args:
        manifest: of the bundle; every candidate names its backend.
        only: another one for all files: `null`, to run nothing. None for what the manifest says.

    Raises:
        BackendError: if it is yet another one. A file is checked for the runtime that its bundle names; no other may
            get it unchecked.
    """

    def __init__(self, manifest: Manifest, only: str | None = None) -> None:
        if only not in (None, NOTHING) and manifest.backend != only:
            named = manifest.backend
            raise BackendError(
                f"this bundle is for the backend '{named}'", got=repr(only), expected=f"{named} or {NOTHING}"
            )
        self.names = (NOTHING,) if only == NOTHING else manifest.backends
        self._created: dict[str, Backend] = {}

    def of(self, candidate: Candidate) -> Backend:
        """Return what opens a candidate's file.

        Raises:
            MissingExtraError: if the runtime is not installed.
            BackendError: if there is no backend of that name, or the file is of a format that it does not open.
        """
        backend = self._get(NOTHING if self.names == (NOTHING,) else candidate.backend)
        if not candidate.file.lower().endswith(backend.suffix):
            raise BackendError(
                f"the backend '{backend.name}' does not open files of this format",
                got=ascii(candidate.file),
                expected=f"a name that ends in {backend.suffix}",
                fix="compile the bundle again",
            )
        return backend

    def open(self, candidate: Candidate, data: bytes, options: SessionOptions) -> Session:
        """Open a candidate's file.

        Args:
            candidate: of the manifest.
            data: the file's bytes, checked by the end of its name.
            options: threads and spinning; the build plan is the candidate's.

        Raises:
            BackendError: if the runtime refuses the file; and those of `of`.
            MissingExtraError: if the runtime is not installed.
        """
        options = replace(options, plan=candidate.plan)
        return self.of(candidate).open(data, candidate.inputs, candidate.outputs, options)

    def _get(self, name: str) -> Backend:
        if name not in self._created:
            self._created[name] = registry.create("backends", name)
        return self._created[name]
