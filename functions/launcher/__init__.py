"""The launcher: a small process of its own that starts workers in their sandboxes, and the daemon's way to it.

Everything but `client` is standard library only and is what the launcher's process consists of.
"""
