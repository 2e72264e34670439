"""Keep what the converters of TFLite print away from the terminal of whoever compiles a model."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what is printed, warned and logged inside to this module's log at debug level; errors pass through.

    The C++ code of the converters writes to the file descriptor of the standard error, so it is the descriptor that
    is redirected, for the whole process: do not run two conversions in two threads.
    """
    sys.stderr.flush()
    kept, disabled = os.dup(2), logging.root.manager.disable
    with tempfile.TemporaryFile() as errors, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(errors.fileno(), 2)
        logging.disable(logging.WARNING)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            logging.disable(disabled)
            errors.seek(0)
            logger.debug("%s%s", output.getvalue(), errors.read().decode(errors="replace"))
