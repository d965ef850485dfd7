"""Which way there is to a worker that has been launched: the fast path for Python, the Runtime API for all others."""

import asyncio
from collections.abc import Callable

from functions.invocations import Invocation
from functions.launcher.client import Launched
from functions.manifest import Manifest
from functions.workers.channel import Channel, Listener
from functions.workers.fast import FastChannel
from functions.workers.runtime_api import RuntimeApiChannel


def open_channel(
    launched: Launched,
    listener: Listener,
    group: asyncio.TaskGroup,
    *,
    fast: bool,
    manifest: Manifest,
    arn_of: Callable[[Invocation], str],
) -> Channel:
    """The channel to a process, which takes over the sockets that it needs; `group` is the parent of its task."""
    if fast:
        launched.runtime_api.close()
        return FastChannel(launched.channel, listener, asyncio.get_running_loop(), arn_of)
    timeout, encoding = manifest.timeout, manifest.encoding
    channel = RuntimeApiChannel(launched.runtime_api, listener, arn_of, timeout, encoding=encoding)
    group.create_task(channel.serve(), name=f"Runtime API of {manifest.name}")
    return channel
