"""Lambda-style handlers: packages, workers, the runtime API. Nothing lives here yet."""
