"""The one command, `tidegate`, over everything; and the demo. Nothing imports this package."""
