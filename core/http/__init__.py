"""HTTP/1.1 for daemons: a small server on h11, who may come in, and AWS Signature Version 4."""
