"""What each action of AWS IoT Core takes: the least, and everything that its API describes beside that."""

from typing import Any

ARN = "arn:aws:iot:eu-west-1:1:ruledestination/vpc/5a"
URL = "https://example.com"
VALUE = {"value": {"doubleValue": "${t}"}, "timestamp": {"timeInSeconds": "${floor(timestamp() / 1E3)}"}}
SCRAM = {
    "bootstrap.servers": "h:9092", "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.scram.username": "u", "sasl.scram.password": "p",
}  # fmt: skip

# The least that each action needs, beside a role.
LEAST: dict[str, dict[str, Any]] = {
    "cloudwatchAlarm": {"alarmName": "a", "stateReason": "hot", "stateValue": "ALARM"},
    "cloudwatchLogs": {"logGroupName": "a"},
    "cloudwatchMetric": {"metricNamespace": "a", "metricName": "b", "metricValue": "${t}", "metricUnit": "None"},
    "dynamoDB": {"tableName": "a", "hashKeyField": "b", "hashKeyValue": "${topic(2)}"},
    "dynamoDBv2": {"putItem": {"tableName": "a"}},
    "elasticsearch": {"endpoint": URL, "index": "i", "type": "t", "id": "${newuuid()}"},
    "firehose": {"deliveryStreamName": "a"},
    "http": {"url": f"{URL}/in"},
    "influxDB": {"destinationArn": ARN, "databaseName": "plant", "tableName": "@{machine}"},
    "iotAnalytics": {"channelName": "a"},
    "iotEvents": {"inputName": "a"},
    "iotSiteWise": {"putAssetPropertyValueEntries": [{"propertyAlias": "/a", "propertyValues": [VALUE]}]},
    "kafka": {"destinationArn": ARN, "topic": "${topic(2)}", "clientProperties": SCRAM},
    "kinesis": {"streamName": "a"},
    "lambda": {"functionArn": "triage"},
    "location": {"trackerName": "a", "deviceId": "${clientid()}", "latitude": "${lat}", "longitude": "8.5"},
    "openSearch": {"endpoint": URL, "index": "i", "type": "t", "id": "${newuuid()}"},
    "republish": {"topic": "a/${topic()}"},
    "s3": {"bucketName": "a", "key": "${topic()}/${timestamp()}"},
    "salesforce": {"token": "t" * 40, "url": "https://ingestion-a1.b2.sfdcnow.com/streams/a_1/b_2/event"},
    "sns": {"targetArn": "a"},
    "sqs": {"queueUrl": "a"},
    "stepFunctions": {"stateMachineName": "a"},
    "timestream": {"databaseName": "a", "tableName": "b", "dimensions": [{"name": "d", "value": "${topic(2)}"}]},
}
WITHOUT_ROLE = {"http", "kafka", "lambda", "salesforce"}

# What each may have beside that; with LEAST, everything that AWS describes.
MORE: dict[str, dict[str, Any]] = {
    "cloudwatchLogs": {"batchMode": True},
    "cloudwatchMetric": {"metricTimestamp": "1700000000"},
    "dynamoDB": {
        "hashKeyType": "NUMBER", "rangeKeyField": "r", "rangeKeyValue": "${timestamp()}", "rangeKeyType": "STRING",
        "payloadField": "p", "operation": "UPDATE",
    },
    "firehose": {"separator": "\r\n", "batchMode": True},
    "http": {
        "confirmationUrl": URL, "headers": [{"key": "k", "value": "${topic()}"}], "enableBatching": True,
        "auth": {"sigv4": {"signingRegion": "r", "serviceName": "s", "roleArn": "arn:aws:iam::1:role/r"}},
        "batchConfig": {
            "maxBatchOpenMs": 5, "maxBatchSize": 10, "maxBatchSizeBytes": 131_072, "batchAcrossTopics": True,
        },
    },
    "influxDB": {
        "organization": "o", "tags": {"hall": "${topic(2)}", "machine": "@{machine}"}, "timestampUnit": "us",
        "batchConfig": {
            "maxBatchOpenMs": 1_000, "maxBatchSize": 500, "maxBatchSizeBytes": 100, "batchAcrossTopics": False,
        },
    },
    "iotAnalytics": {"batchMode": True},
    "iotEvents": {"batchMode": True},
    "kafka": {"key": "k", "partition": "3", "headers": [{"key": "${k}", "value": ""}]},
    "kinesis": {"partitionKey": "${newuuid()}"},
    "location": {"timestamp": {"value": "${ts}", "unit": "SECONDS"}},
    "republish": {
        "qos": 1,
        "headers": {
            "payloadFormatIndicator": "UTF8_DATA", "contentType": "a/b", "responseTopic": "$aws/r",
            "correlationData": "YQ==", "messageExpiry": "60", "userProperties": [{"key": "${k}", "value": "v"}],
        },
    },
    "s3": {"cannedAcl": "bucket-owner-read"},
    "sns": {"messageFormat": "JSON"},
    "sqs": {"useBase64": True},
    "stepFunctions": {"executionNamePrefix": "hot-${topic(2)}"},
    "timestream": {"timestamp": {"value": "${ts}", "unit": "NANOSECONDS"}},
}  # fmt: skip
