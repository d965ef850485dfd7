"""A pinned function of Greengrass V1: counts what it hears of each machine, and tells the shadow service every minute.

Its state is in the module, which lives as long as the function does; its client is that of greengrasssdk.
"""

import json
import threading
import time

import greengrasssdk

client = greengrasssdk.client("iot-data")
started = time.time()
heard = {}
lock = threading.Lock()


def report():
    """Publish the counts every minute, on a timer that a pinned function may have."""
    with lock:
        counts = dict(heard)
    client.publish(
        topic="plant/uptime",
        queueFullPolicy="AllOrException",
        payload=json.dumps({"up_seconds": round(time.time() - started), "heard": counts}),
    )
    timer = threading.Timer(60, report)
    timer.daemon = True
    timer.start()


report()


def function_handler(event, context):
    topic = context.client_context.custom["subject"]
    machine = topic.split("/")[2]
    with lock:
        heard[machine] = heard.get(machine, 0) + 1
    if heard[machine] == 1:
        client.publish(topic="plant/uptime/first", payload=json.dumps({"machine": machine, "event": event}))
