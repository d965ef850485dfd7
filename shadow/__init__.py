"""Device shadows: documents, what requests make of them, what is told of it. Pure; the sides keep and publish."""
