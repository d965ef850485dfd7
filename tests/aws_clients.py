"""AWS's own clients, boto3's, pointed at an address of ours; they block, so a test calls them in a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
PATIENCE_SECONDS = 20


@cache  # it reads the descriptions of services, which takes long
def _session() -> boto3.session.Session:
    return boto3.session.Session()


@contextmanager
def aws(service: str, url: object, key_id: str = KEY_ID, secret: str = SECRET, **options: Any) -> Iterator[Any]:
    """A client of a service at `url`, "http://host:port"; it tries once."""
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=PATIENCE_SECONDS,
        read_timeout=PATIENCE_SECONDS,
        parameter_validation=options.pop("parameter_validation", True),
    )
    client = _session().client(
        service,
        region_name="eu-west-1",
        endpoint_url=str(url),
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=config,
        **options,
    )
    try:
        yield client
    finally:
        client.close()
