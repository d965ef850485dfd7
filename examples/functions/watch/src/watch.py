"""Make an alarm of a raw reading that is beyond the limits, and nothing of any other."""

import os

HOT, COLD = float(os.environ["HOT"]), float(os.environ["COLD"])


def handler(event, context):
    temperature = event["temperature"]
    if COLD <= temperature <= HOT:
        return None
    state = "hot" if temperature > HOT else "cold"
    print(f"{event['machine']} is {state}: {temperature:.1f}")
    return {
        "hall": event["hall"],
        "machine": event["machine"],
        "reading": event["reading"],
        "temperature": temperature,
        "state": state,
        "raised_by": f"{context.function_name}:{context.function_version}",
    }
