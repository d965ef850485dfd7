"""The HTTP side of a cloud: which APIs it answers.

Publishing over HTTP goes the way of a device's message, by the broker to the inbox. Who may come in, and the sockets,
are `devices.reception`'s.
"""


from cloud.config import CloudConfig
from core.http.iotdata import IotData, Shadows
from core.http.publishing import Publisher
from core.mqtt.broker import Broker
from core.mqtt.listener import now_ms
from core.telemetry import Counters
from devices.gatekeeper import Gatekeeper
from devices.reception import Api, Reception
from functions.api import LambdaApi


class Http(Reception):
    """The APIs of iot-data, and of lambda where there are functions."""

    def __init__(
        self,
        config: CloudConfig,
        gatekeeper: Gatekeeper,
        broker: Broker,
        counters: Counters,
        functions: LambdaApi | None = None,
        shadows: Shadows | None = None,
    ) -> None:
        messages = IotData(Publisher(broker).publish, shadows, now_ms)
        apis: list[Api] = [messages] if functions is None else [messages, functions]
        super().__init__(config.http, config.cloud.data_dir, gatekeeper, counters, apis)
