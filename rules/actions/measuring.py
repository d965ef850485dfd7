"""Actions that take numbers out of a message: metrics, alarms, logs, properties of assets, positions."""

from typing import Annotated, ClassVar, Self

from pydantic import model_validator

from rules.actions.fields import Count, OneOf, Parameters, RoleAction, Several, Text, at_most, numeric

_AMOUNTS = (
    *("Bytes", "Kilobytes", "Megabytes", "Gigabytes", "Terabytes"),
    *("Bits", "Kilobits", "Megabits", "Gigabits", "Terabits"),
)
UNITS = (  # CloudWatch's
    *("Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "Count/Second", "None"),
    *_AMOUNTS,
    *(f"{amount}/Second" for amount in _AMOUNTS),
)


# ── CloudWatch ──────────────────────────────────────────────────────────────────────────────────────────────


class CloudwatchMetric(RoleAction):
    """Give a metric a value; `metricTimestamp` is in seconds, the time of processing unless given."""

    name: ClassVar[str] = "cloudwatchMetric"
    metric_namespace: Text
    metric_name: Text
    metric_value: Annotated[Text, numeric()]
    metric_unit: Annotated[Text, OneOf(*UNITS)]
    metric_timestamp: Annotated[Text, numeric()] | None = None


class CloudwatchAlarm(RoleAction):
    """Set the state of an alarm."""

    name: ClassVar[str] = "cloudwatchAlarm"
    alarm_name: Text
    state_reason: Text
    state_value: Annotated[Text, OneOf("OK", "ALARM", "INSUFFICIENT_DATA")]


class CloudwatchLogs(RoleAction):
    """Write the output into a log; with `batchMode`, an Array of `{"timestamp", "message"}`, one event each."""

    name: ClassVar[str] = "cloudwatchLogs"
    log_group_name: Text
    batch_mode: bool = False


# ── assets ──────────────────────────────────────────────────────────────────────────────────────────────────


class AssetVariant(Parameters):
    """The value of a property: one of four, all written as text."""

    string_value: Annotated[Text, at_most(1_024)] | None = None
    integer_value: Annotated[Text, numeric(whole=True)] | None = None
    double_value: Annotated[Text, numeric()] | None = None
    boolean_value: Annotated[Text, OneOf("true", "false")] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = (self.string_value, self.integer_value, self.double_value, self.boolean_value)
        if sum(value is not None for value in given) != 1:
            raise ValueError("needs one of stringValue, integerValue, doubleValue and booleanValue")
        return self


class AssetTime(Parameters):
    """When a property had its value."""

    time_in_seconds: Annotated[Text, numeric(whole=True)]
    offset_in_nanos: Annotated[Text, numeric(0, 999_999_999, whole=True)] | None = None


class AssetValue(Parameters):
    """One value of a property at one time."""

    value: AssetVariant
    timestamp: AssetTime
    quality: Annotated[Text, OneOf("GOOD", "BAD", "UNCERTAIN")] | None = None


class AssetEntry(Parameters):
    """Values of one property, which has an alias or is named by its asset and its own id."""

    entry_id: Text | None = None
    asset_id: Text | None = None
    property_id: Text | None = None
    property_alias: Text | None = None
    property_values: Annotated[Several[AssetValue], Count(1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = (self.asset_id is not None, self.property_id is not None)
        if ids != ((True, True) if self.property_alias is None else (False, False)):
            raise ValueError("needs either propertyAlias, or assetId and propertyId")
        return self


class IotSiteWise(RoleAction):
    """Give properties of assets their values."""

    name: ClassVar[str] = "iotSiteWise"
    put_asset_property_value_entries: Annotated[Several[AssetEntry], Count(1)]


# ── positions ───────────────────────────────────────────────────────────────────────────────────────────────


class LocationTime(Parameters):
    """When a device was where it says."""

    value: Annotated[Text, numeric()]
    unit: Annotated[Text, OneOf("SECONDS", "MILLISECONDS", "MICROSECONDS", "NANOSECONDS")] | None = None


class Location(RoleAction):
    """Tell a tracker where a device is; `timestamp` is the time of processing unless given, in milliseconds."""

    name: ClassVar[str] = "location"
    tracker_name: Text
    device_id: Text
    latitude: Annotated[Text, numeric(-90, 90)]
    longitude: Annotated[Text, numeric(-180, 180)]
    timestamp: LocationTime | None = None
