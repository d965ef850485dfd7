"""Shadow documents, pure: merge, delta, versions, the protocol, reconciliation. Nothing lives here yet."""
