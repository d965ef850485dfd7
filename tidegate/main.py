"""The `tidegate` command: sends daemons on their way before anything of the command line's own is imported."""

import sys


def main() -> None:
    """Run `tidegate` with the arguments of this process."""
    # A daemon must not carry typer and rich in its memory for the rest of its life.
    if sys.argv[1:3] in (["edge", "run"], ["cloud", "run"]) and not {"-h", "--help"} & set(sys.argv):
        from tidegate.daemons import run

        sys.exit(run(sys.argv[1], sys.argv[3:]))
    from tidegate.cli import application

    application(sys.argv[1] if len(sys.argv) > 1 else "")()


if __name__ == "__main__":
    main()
