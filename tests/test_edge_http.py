"""HTTP at a real edge, by AWS's own clients: what was answered outlives a SIGKILL, and functions run."""

import json
import shutil
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from functions.manifest import Manifest
from functions.packages.library import Library
from functions.packages.staging import Draft
from tests.aws_clients import KEY_ID, SECRET, aws
from tests.functions_site import PYTHON
from tidegate.processes import Daemon, free_port

pytestmark = pytest.mark.processes


class Edge:
    """An edge with [http] and a lane that keeps everything for a cloud that is not there."""

    def __init__(self, directory: Path) -> None:
        self.mqtt, self.http, nowhere = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self.directory = directory
        keys = directory / "keys"
        keys.write_text(f"[operator]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
        keys.chmod(0o600)
        (directory / "edge.toml").write_text(
            f"""
            edge.name = "press-hall"
            edge.data_dir = "edge"
            [[listeners]]
            address = "127.0.0.1:{self.mqtt}"
            anonymous = true
            [http]
            address = "127.0.0.1:{self.http}"
            credentials = "keys"
            [functions]
            directory = "functions"
            [uplink]
            url = "mqtt://127.0.0.1:{nowhere}"
            """
        )
        self.daemon = Daemon("edge", directory / "edge.toml", directory / "edge")


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    edge = Edge(tmp_path)
    try:
        edge.daemon.start()
        yield edge
    finally:
        edge.daemon.kill()


def test_what_boto3_has_published_outlives_a_kill(edge: Edge) -> None:
    with aws("iot-data", edge.url) as client:
        for number in range(20):
            client.publish(topic="plant/a", qos=1, payload=b"%d" % number)
        client.publish(topic="plant/setting", qos=1, retain=True, payload=b"21.5")
    edge.daemon.kill()
    edge.daemon.start()
    assert edge.daemon.ask("status")["buffered_messages"] == 21


def test_a_shadow_that_boto3_has_changed_outlives_a_kill(edge: Edge) -> None:
    with aws("iot-data", edge.url) as client:
        client.update_thing_shadow(thingName="pump", payload=json.dumps({"state": {"desired": {"on": True}}}))
    edge.daemon.kill()
    edge.daemon.start()
    with aws("iot-data", edge.url) as client:
        document = json.loads(client.get_thing_shadow(thingName="pump")["payload"].read())
        assert document["state"]["desired"] == {"on": True}
        with pytest.raises(ClientError) as caught:
            client.get_thing_shadow(thingName="nobody")
        assert type(caught.value).__name__ == "ResourceNotFoundException"


HANDLER = """
import json, os

import boto3

iot = boto3.client("iot-data")

def handler(event, context):
    print("seen", event)
    iot.publish(topic="plant/alarm", qos=1, payload=json.dumps(event))
    return {"event": event, "id": context.aws_request_id, "subject": context.client_context.custom["subject"]}
"""


def test_a_function_is_invoked_and_publishes_with_nothing_but_aws_clients(edge: Edge) -> None:
    manifest = Manifest(name="press-alarm", version=1, runtime=PYTHON, handler="index.handler", timeout=30)
    site_packages = Path(boto3.__file__).parent.parent
    library = Library(edge.directory / "functions")
    code = edge.directory / "code"
    code.mkdir()
    (code / "index.py").write_text(HANDLER)
    for package in ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3"):
        shutil.copytree(site_packages / package, code / package, ignore=_all_but_what_is_used)
    shutil.copy(site_packages / "six.py", code)
    library.install(Draft(manifest, code, python=sys.executable))
    edge.daemon.kill()
    edge.daemon.start()
    context = b64encode(b'{"custom": {"subject": "plant/a"}}').decode()
    with aws("lambda", edge.url) as client:
        answer = client.invoke(
            FunctionName="press-alarm", Payload=b'{"t": 96}', LogType="Tail", ClientContext=context
        )
        result = json.loads(answer["Payload"].read())
        assert result == {"event": {"t": 96}, "id": answer["ResponseMetadata"]["RequestId"], "subject": "plant/a"}
        assert answer["ExecutedVersion"] == "1"
        assert b"seen {'t': 96}" in b64decode(answer["LogResult"])
    assert edge.daemon.ask("status")["buffered_messages"] == 1


def _all_but_what_is_used(directory: str, names: list[str]) -> list[str]:
    """botocore describes four hundred services, more than fits into a function."""
    if Path(directory).name != "data" or Path(directory).parent.name != "botocore":
        return ["__pycache__"]
    return [name for name in names if name != "iot-data" and not name.endswith(".json")]


def test_who_has_no_key_is_refused_and_the_edge_stops_in_good_order(edge: Edge) -> None:
    with aws("iot-data", edge.url, secret=SECRET[::-1]) as client, pytest.raises(ClientError, match="signature"):
        client.publish(topic="plant/a", payload=b"1")
    assert edge.daemon.stop() == 0
    assert "Traceback" not in edge.daemon.log.read_text()
