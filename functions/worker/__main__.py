"""A worker's first steps: put the rest of the sandbox around this process, then become the function's runtime.

Nothing of the user's has run before `enter` returns. With a command after `--` this process becomes that command;
without one the Python loop goes on here, with the channel to the daemon. The function's variables appear only with
that, and those that the linker reads count for a process that starts: where they matter, Python starts once more.
"""

import _signal  # type: ignore[import-not-found]  # without the enumerations of `signal`
import os
import sys

RESUME = "resume"  # the word of the command line when the sandbox is there already
OF_LINKER = ("LD_", "GLIBC_", "MALLOC_")  # variables that glibc reads when a process starts
HELPERS = ("entering", "landlock", "seccomp")  # names that a handler's own modules may have too


def main() -> None:
    """Enter the sandbox and run what was asked for. The words of the command line are those of `entering.enter`."""
    import entering  # type: ignore[import-not-found]

    if sys.argv[1:] == [RESUME]:
        channel, command = entering.resume(), []
    else:
        channel, command = entering.enter(sys.argv[1:])
        if not command and _concerns_linker():
            os.set_inheritable(channel.fileno(), True)
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", sys.argv[0], RESUME])
    for name in HELPERS:
        sys.modules.pop(name, None)
    if command:
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)  # Python ignores it, and a command would inherit that
        try:
            os.execv(command[0], command)
        except OSError as error:
            sys.exit(f"{command[0]}: cannot be run: {error.strerror}")
    import socket
    import time

    time.tzset()  # TZ is the function's only now
    from loop import serve  # type: ignore[import-not-found]

    sys.path[1:1] = [place for place in os.environ.get("PYTHONPATH", "").split(":") if place]
    serve(socket.socket(fileno=channel.detach()))


def _concerns_linker() -> bool:
    """Whether a variable or a library of the function's must be there when a process starts."""
    if any(name.startswith(OF_LINKER) and name != "LD_LIBRARY_PATH" for name in os.environ):
        return True
    for place in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        try:
            if place and any(".so" in name for name in os.listdir(place)):
                return True
        except OSError:
            continue
    return False


if __name__ == "__main__":
    main()
