"""Raise an alarm for every reading that is beyond the limits, as one would write it for AWS."""

import json
import logging
import os

import boto3

HOT = float(os.environ["HOT"])
COLD = float(os.environ["COLD"])

logger = logging.getLogger()
logger.setLevel(logging.INFO)
iot = boto3.client("iot-data")


def handler(event, context):
    temperature = event["temperature"]
    if COLD <= temperature <= HOT:
        return None
    alarm = {
        "machine": event["machine"],
        "reading": event.get("reading"),
        "temperature": temperature,
        "state": "hot" if temperature > HOT else "cold",
        "request": context.aws_request_id,
    }
    topic = f"plant/{event['hall']}/{event['machine']}/warning"
    iot.publish(topic=topic, qos=1, payload=json.dumps(alarm))
    logger.info("%s is %s: %.1f", event["machine"], alarm["state"], temperature)
    return alarm
