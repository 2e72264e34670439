"""The program on the command line of the device's Python: it reads our package from stdin and starts the agent.

It runs by itself, before anything of ours is there, on whatever Python 3 that is; so it names what is missing.
"""

import hashlib
import io
import json
import os
import sys
import zipfile


def main() -> None:
    """Unpack the package into the current folder and serve, or greet with why that is impossible."""
    version = sys.version.split()[0]
    if sys.version_info < (3, 10):  # noqa: UP036 - whatever the device has
        return _refuse(python=version, executable=sys.executable)
    try:
        size, _, digest = sys.stdin.buffer.readline().strip().partition(b" ")
        if not size.isdigit() or len(size) > 9:  # a login shell has read a part of it
            return _refuse(damaged=True)
        data = sys.stdin.buffer.read(int(size))
        if hashlib.sha256(data).hexdigest().encode() != digest:
            return _refuse(damaged=True)
        site = os.path.join(os.getcwd(), "site")  # noqa: PTH118, PTH109 - nothing is imported that need not be
        zipfile.ZipFile(io.BytesIO(data)).extractall(site)
        sys.path.insert(0, site)
        os.environ["PYTHONPATH"] = site  # for the processes in which cold starts are measured
        from edgefuse.device.agent import serve
    except OSError as error:
        return _refuse(system=error.strerror, errno=error.errno)
    except ImportError as error:
        return _refuse(module=error.name or str(error), python=version, executable=sys.executable)
    return serve(sys.stdin.buffer)


def _refuse(**why: object) -> None:
    sys.stdout.write("\nedgefuse-agent " + json.dumps(why) + "\n")


if __name__ == "__main__":
    main()
