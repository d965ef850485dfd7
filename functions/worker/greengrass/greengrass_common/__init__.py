"""What Greengrass V1's SDK for Python expects of its core, beside the IPC client."""
