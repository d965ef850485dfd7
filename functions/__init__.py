"""Lambda-style handlers: packages, the launcher and its sandbox, workers, the runtime API, durable invocation."""
