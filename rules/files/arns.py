"""Names, ARNs and URLs: what a bare name becomes where AWS wants more.

Knows the forms of AWS's names (Service Authorization Reference, "Resource types"), not which resources there are.
"""

from dataclasses import dataclass

REGION = "us-east-1"
ACCOUNT_ID = "000000000000"  # nobody's; other programs that stand in for AWS use it too

ROLE = "arn:{partition}:iam::{account_id}:role/{name}"
TOPIC = "arn:{partition}:sns:{region}:{account_id}:{name}"
FUNCTION = "arn:{partition}:lambda:{region}:{account_id}:function:{name}"
QUEUE = "arn:{partition}:sqs:{region}:{account_id}:{name}"
QUEUE_URL = "https://sqs.{region}.{suffix}/{account_id}/{name}"
CHANNEL = "arn:{partition}:iotanalytics:{region}:{account_id}:channel/{name}"


@dataclass(frozen=True, slots=True)
class Account:
    """Where names without a region and an account belong."""

    region: str = REGION
    account_id: str = ACCOUNT_ID

    @property
    def partition(self) -> str:
        """The part of AWS that the region is in."""
        by_prefix = {"cn": "aws-cn", "us-gov": "aws-us-gov"}
        return next((name for prefix, name in by_prefix.items() if self.region.startswith(f"{prefix}-")), "aws")

    @property
    def suffix(self) -> str:
        """What names of hosts end in."""
        return "amazonaws.com.cn" if self.partition == "aws-cn" else "amazonaws.com"

    def fill(self, form: str, name: str) -> str:
        """One of this module's forms, with a name put in."""
        return form.format(
            name=name, region=self.region, account_id=self.account_id, partition=self.partition, suffix=self.suffix
        )


NOWHERE = Account()


def is_bare(text: str) -> bool:
    """Whether a text is a name that can be completed: no ARN, no URL, the same for every message."""
    return not text.startswith(("arn:", "https://", "http://")) and "${" not in text
