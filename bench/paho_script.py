"""The rule of `bench.republish` as a script: subscribe, json.loads, if, json.dumps, publish, with paho on MQTT 3.1.1.

    python -m bench.paho_script PORT

says "ready" on standard output when it is subscribed, and goes on until it is stopped.
"""

import json
import sys
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def on_connect(client: mqtt.Client, *_: Any) -> None:
    """Subscribe."""
    client.subscribe("floor/line/+/telemetry")


def on_subscribe(*_: Any) -> None:
    """Say so."""
    print("ready", flush=True)


def on_message(client: mqtt.Client, _: Any, message: mqtt.MQTTMessage) -> None:
    """The rule. Compact JSON is what the edge writes, too, so that both outputs can be compared byte for byte."""
    reading = json.loads(message.payload)
    if reading["temperature"] > 0:
        output = {"reading": reading["reading"], "time": reading["time"], "value": reading["temperature"]}
        machine = message.topic.split("/")[2]
        client.publish(f"floor/alarm/{machine}", json.dumps(output, separators=(",", ":")))


def main() -> None:
    """Run until stopped."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="rule")
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.loop_forever()


if __name__ == "__main__":
    main()
