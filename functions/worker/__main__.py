"""A worker's first steps: put the rest of the sandbox around this process, then become the function's runtime.

Nothing of the user's has run before `enter` returns. With a command after `--` this process becomes that command;
without one the Python loop goes on here, with the channel to the daemon.
"""

import _signal  # type: ignore[import-not-found]  # without the enumerations of `signal`
import os
import sys

HELPERS = ("entering", "landlock", "seccomp")  # names that a handler's own modules may have too


def main() -> None:
    """Enter the sandbox and run what was asked for. The words of the command line are those of `entering.enter`."""
    from entering import enter  # type: ignore[import-not-found]

    channel, command = enter(sys.argv[1:])
    for name in HELPERS:
        sys.modules.pop(name, None)
    if command:
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)  # Python ignores it, and a command would inherit that
        try:
            os.execv(command[0], command)
        except OSError as error:
            sys.exit(f"{command[0]}: cannot be run: {error.strerror}")
    import socket

    from loop import serve  # type: ignore[import-not-found]

    sys.path[1:1] = [place for place in os.environ.get("PYTHONPATH", "").split(":") if place]
    serve(socket.socket(fileno=channel.detach()))


if __name__ == "__main__":
    main()
