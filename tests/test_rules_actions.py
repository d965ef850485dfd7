"""Actions: which parameters each has and what may stand in them, against AWS's own description of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from core.message import Message
from rules.actions import ACTIONS, Action, Republish, Setting, action, parameters, templates
from rules.event import Event
from rules.sql.parser import parse_statement
from tests.aws_actions import LEAST, MORE, SCRAM, URL, VALUE, WITHOUT_ROLE


def read(name: str, written: Any) -> Action:
    return action(name, written, Setting())


def complaint(name: str, written: Any) -> str:
    """`dotted.place: what is wrong` of the only fault."""
    with pytest.raises(ValidationError) as caught:
        read(name, written)
    [details] = caught.value.errors()
    return f"{'.'.join(map(str, details['loc']))}: {details['msg'].removeprefix('Value error, ')}"


def test_every_action_of_aws_is_there() -> None:
    assert ACTIONS.keys() == LEAST.keys()
    assert all(ACTIONS[name].name == name for name in ACTIONS)
    assert all(ACTIONS[name].__name__.lower() == name.lower() for name in ACTIONS)


@pytest.mark.parametrize("name", LEAST)
def test_an_action_takes_what_aws_takes_and_says_it_again_as_it_was_written(name: str) -> None:
    assert parameters(read(name, LEAST[name])) == LEAST[name]
    role = {} if name in WITHOUT_ROLE else {"roleArn": "arn:aws:iam::1:role/r"}
    everything = {**LEAST[name], **MORE.get(name, {}), **role}
    assert parameters(read(name, everything)) == everything
    fields = ACTIONS[name].model_fields.values()
    optional = {"channelArn"} if name == "iotAnalytics" else {"messageId"} if name == "iotEvents" else set()
    assert {str(field.alias) for field in fields} == everything.keys() | optional


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in LEAST for key in LEAST[name]])
def test_an_action_without_what_it_needs_is_refused(name: str, key: str) -> None:
    with pytest.raises(ValidationError):
        read(name, {kept: value for kept, value in LEAST[name].items() if kept != key})
    with pytest.raises(ValidationError):
        read(name, {**LEAST[name], key: None})


@pytest.mark.parametrize("name", WITHOUT_ROLE)
def test_an_action_that_has_no_role_takes_none(name: str) -> None:
    assert "roleArn: Extra inputs" in complaint(name, {**LEAST[name], "roleArn": "arn:aws:iam::1:role/r"})


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        # templates and what cannot be one
        ("sns", {"targetArn": "${a}"}, "targetArn: is looked up when rules are loaded, so it cannot be a template"),
        ("firehose", {"deliveryStreamName": "a${b}"}, "deliveryStreamName: is looked up"),
        ("dynamoDBv2", {"putItem": {"tableName": "${a}"}}, "putItem.tableName: is looked up"),
        ("influxDB", {"destinationArn": "${a}"}, "destinationArn: a template (${…}) is not allowed here"),
        ("s3", {"key": ""}, "key: must not be empty"),
        ("s3", {"key": "@{a}"}, "key: @{…} is only for tableName and tags of influxDB"),
        ("influxDB", {"tableName": "@{a}${b}"}, "tableName: ${…} and @{…} cannot stand in one value"),
        ("influxDB", {"tags": {"a": "@{a}${b}"}}, "tags.a: ${…} and @{…} cannot stand in one value"),
        ("s3", {"key": 5}, "key: Input should be an instance of Template"),
        ("s3", {"key": "${frob()}"}, "key: 1:3: there is no function frob()"),
        ("s3", {"roleArn": ""}, "roleArn: String should have at least 1 character"),
        # enumerations
        ("s3", {"cannedAcl": "public"}, "cannedAcl: Input should be 'private'"),
        ("dynamoDB", {"operation": "PUT"}, "operation: must be INSERT, UPDATE or DELETE"),
        ("dynamoDB", {"operation": "delete"}, "operation: must be INSERT, UPDATE or DELETE; did you mean 'DELETE'?"),
        ("dynamoDB", {"hashKeyType": "BINARY"}, "hashKeyType: Input should be 'STRING' or 'NUMBER'"),
        ("firehose", {"separator": ";"}, "separator: Input should be"),
        ("cloudwatchAlarm", {"stateValue": "OKAY"}, "did you mean 'OK'?"),
        ("cloudwatchMetric", {"metricUnit": "Bytes/Seconds"}, "did you mean 'Bytes/Second'?"),
        ("timestream", {"timestamp": {"value": "1", "unit": "ms"}}, "timestamp.unit: must be SECONDS, MILLISECONDS"),
        ("influxDB", {"timestampUnit": "m"}, "timestampUnit: Input should be 's', 'ms', 'us' or 'ns'"),
        # numbers
        ("republish", {"qos": 2}, "qos: Input should be less than or equal to 1"),
        ("republish", {"qos": "1"}, "qos: Input should be a valid integer"),
        ("cloudwatchMetric", {"metricValue": "hot"}, "metricValue: must be a number as text, or a template"),
        ("location", {"latitude": "91"}, "latitude: must be a number from -90 to 90 as text"),
        ("location", {"longitude": "-180.1"}, "longitude: must be a number from -180 to 180 as text"),
        ("kafka", {"partition": "-1"}, "partition: must be a whole number from 0 to"),
        ("cloudwatchMetric", {"metricValue": "9" * 10_000}, "metricValue: must be a number"),
        ("http", {"batchConfig": {"maxBatchOpenMs": 4}}, "batchConfig.maxBatchOpenMs: Input should be greater than or"),
        ("http", {"batchConfig": {"maxBatchSize": 11}}, "batchConfig.maxBatchSize: Input should be less than or"),
        ("influxDB", {"batchConfig": {"maxBatchSize": 501}}, "batchConfig.maxBatchSize: Input should be less than"),
        # sizes
        ("iotEvents", {"inputName": "x" * 129}, "inputName: has more than 128 characters"),
        ("http", {"headers": [{"key": "k", "value": "v"}] * 101}, "headers: must have at most 100 entries"),
        ("kafka", {"headers": []}, "headers: must have at least 1 entry"),
        ("timestream", {"dimensions": []}, "dimensions: must have at least 1 entry"),
        ("influxDB", {"tags": {str(key): "v" for key in range(499)}}, "tags: Dictionary should have at most 498 items"),
        ("salesforce", {"token": "short"}, "token: String should have at least 40 characters"),
        # republish
        ("republish", {"headers": {"responseTopic": "a/#"}}, "headers.responseTopic: topic 'a/#' holds a wildcard"),
        ("republish", {"headers": {"correlationData": "!"}}, "headers.correlationData: must be base64"),
        ("republish", {"headers": {"messageExpiry": "1.5"}}, "headers.messageExpiry: must be a whole number"),
        ("republish", {"headers": {"contentType": "x" * 1_025}}, "contentType: has more than 1,024 characters"),
        # http
        ("http", {"url": "http://example.com"}, "url: must begin with https://"),
        ("http", {"url": "https://e/${topic()}"}, "confirmationUrl is missing: a url with a template needs it"),
        ("http", {"confirmationUrl": f"{URL}/out"}, "url must begin with what confirmationUrl says"),
        ("http", {"auth": {"sigv4": {"signingRegion": "r"}}}, "auth.sigv4.serviceName: Field required"),
        # what goes together
        ("dynamoDB", {"rangeKeyField": "r"}, "rangeKeyField and rangeKeyValue go together"),
        ("iotEvents", {"messageId": "m", "batchMode": True}, "messageId cannot stand beside batchMode: true"),
        ("iotAnalytics", {"channelArn": "a"}, "needs channelName (or channelArn"),
        ("stepFunctions", {"stateMachineName": "arn:aws:states:r:1:stateMachine:m"}, "not an ARN: write 'm'"),
        ("openSearch", {"endpoint": "example.com"}, "endpoint: must begin with https://"),
        ("timestream", {"dimensions": [{"name": "time", "value": "v"}]}, "dimensions.0.name: cannot be the name of a"),
        ("timestream", {"dimensions": [{"name": "a:b", "value": "v"}]}, "dimensions.0.name: cannot be the name of a"),
        ("influxDB", {"databaseName": "_a"}, "databaseName: String should match"),
        ("influxDB", {"tableName": "_a"}, "tableName: must not begin with _"),
        ("influxDB", {"tags": {"_a": "v"}}, "tags._a.[key]: String should match"),
        ("salesforce", {"url": "https://example.com"}, "url: String should match"),
    ],
)  # fmt: skip
def test_what_aws_refuses_is_refused(name: str, changed: dict[str, Any], message: str) -> None:
    assert message in complaint(name, {**LEAST[name], **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"acks": "2"}, "acks must be -1, 0, 1 or all"),
        ({"ack": "1"}, "there is no client property 'ack'; did you mean 'acks'?"),
        ({"security.protocol": "SASL"}, "security.protocol must be SSL or SASL_SSL; did you mean 'SSL'?"),
        ({"security.protocol": "SSL"}, "ssl.keystore is missing"),
        ({"sasl.mechanism": "PLAIN"}, "sasl.plain.username is missing"),
        ({"sasl.mechanism": "GSSAPI"}, "sasl.kerberos.keytab is missing"),
        ({"bootstrap.servers": None}, "bootstrap.servers is missing"),
        ({"sasl.mechanism": None}, "sasl.mechanism is missing"),
        ({"security.protocol": None}, "ssl.keystore is missing"),
    ],
)
def test_client_properties_of_kafka_are_complete_and_known(changed: dict[str, str | None], message: str) -> None:
    properties = {key: value for key, value in {**SCRAM, **changed}.items() if value is not None}
    assert complaint("kafka", {**LEAST["kafka"], "clientProperties": properties}) == f"clientProperties: {message}"


def test_a_protocol_that_only_a_message_knows_is_not_checked_before() -> None:
    properties = {"bootstrap.servers": "h:9092", "security.protocol": "${p}"}
    read("kafka", {**LEAST["kafka"], "clientProperties": properties})


@pytest.mark.parametrize(
    "entry",
    [
        {"propertyValues": [VALUE]},
        {"assetId": "a", "propertyValues": [VALUE]},
        {"propertyId": "a", "propertyValues": [VALUE]},
        {"propertyAlias": "a", "assetId": "a", "propertyId": "a", "propertyValues": [VALUE]},
    ],
)
def test_a_property_of_an_asset_is_named_in_one_way(entry: dict[str, Any]) -> None:
    written = {"putAssetPropertyValueEntries": [entry]}
    assert "needs either propertyAlias, or assetId and propertyId" in complaint("iotSiteWise", written)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "needs one of stringValue"),
        ({"stringValue": "a", "integerValue": "1"}, "needs one of stringValue"),
        ({"integerValue": "1.5"}, "must be a whole number as text"),
        ({"booleanValue": "yes"}, "must be true or false"),
    ],
)
def test_a_value_of_an_asset_has_one_type(value: dict[str, Any], message: str) -> None:
    entry = {"assetId": "a", "propertyId": "b", "propertyValues": [{**VALUE, "value": value}]}
    assert message in complaint("iotSiteWise", {"putAssetPropertyValueEntries": [entry]})


def test_the_templates_of_an_action_have_their_places() -> None:
    found = templates(read("republish", {**LEAST["republish"], **MORE["republish"]}))
    assert {place: template.source for place, template in found.items()} == {
        "topic": "a/${topic()}",
        "headers.payloadFormatIndicator": "UTF8_DATA",
        "headers.contentType": "a/b",
        "headers.responseTopic": "$aws/r",
        "headers.correlationData": "YQ==",
        "headers.messageExpiry": "60",
        "headers.userProperties[0].key": "${k}",
        "headers.userProperties[0].value": "v",
    }
    kafka = templates(read("kafka", LEAST["kafka"]))
    assert kafka["clientProperties.sasl.scram.password"].source == "p"
    assert templates(read("sns", LEAST["sns"])) == {}


def test_a_template_sees_the_variables_of_its_statement() -> None:
    statement = parse_statement("SET @hall = topic(2) SELECT * FROM 'plant/+'")
    found = action("republish", {"topic": "alarm/${@hall}"}, Setting(statement=statement))
    assert isinstance(found, Republish)
    assert found.topic.render(Event(Message("plant/7", b"{}"), 0)) == "alarm/7"
    assert "hall" in complaint("republish", {"topic": "alarm/${@hall}"})


def test_texts_stand_for_numbers_and_booleans_only_where_that_was_asked_for() -> None:
    written = {"deliveryStreamName": "a", "batchMode": "true"}
    assert parameters(action("firehose", written, Setting(), strict=False))["batchMode"] is True
    assert "batchMode: Input should be a valid boolean" in complaint("firehose", written)


def test_actions_never_change_and_are_equal_when_they_say_the_same() -> None:
    first, second = read("s3", LEAST["s3"]), read("s3", LEAST["s3"])
    assert first == second
    assert first != read("s3", {**LEAST["s3"], "key": "other"})
    with pytest.raises(ValidationError):
        first.bucket_name = "x"  # type: ignore[attr-defined]


def test_bounds_are_told_with_all_their_digits() -> None:
    with pytest.raises(ValueError, match="must be a whole number from 0 to 4,294,967,295 as text, or a template"):
        action("republish", {"topic": "a", "headers": {"messageExpiry": "-1"}}, Setting())
