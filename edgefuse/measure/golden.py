"""A bundle that must meet its golden vectors on this device to be taken: the `check` of `edgefuse.Live`."""

from __future__ import annotations

from edgefuse.bundle.reader import Bundle
from edgefuse.errors import BundleError, some
from edgefuse.measure import agreement, trial
from edgefuse.runtime.backends.backend import SessionOptions


def require(bundle: Bundle) -> None:
    """Refuse a bundle whose files do not answer here as torch did; a file that crashes does so in another process.

    Raises:
        BundleError: a candidate is beyond its tolerance, cannot be run, or there are no golden vectors.
        MissingExtraError: the runtime is not installed.
    """
    options = SessionOptions()
    trial.check(bundle, options)
    if failed := [result for result in agreement.check(bundle, options) if not result.ok]:
        raise BundleError(
            f"the bundle '{bundle.path}' is refused: it does not meet its golden vectors on this device",
            got=some(f"{result.candidate}: {result.reason}" for result in failed),
            fix="ask 'edgefuse verify' about it",
        )
