"""What Greengrass V1's SDK for Python calls its core through."""
