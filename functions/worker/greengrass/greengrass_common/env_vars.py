"""Names that Greengrass V1's core gave a function by its environment. None of the three services is a function here.

MY_FUNCTION_ARN is None outside of a worker; the SDK then answers every call with a sample of its own.
"""

import os

AUTH_TOKEN = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
ROUTER_FUNCTION_ARN = os.environ.get("ROUTER_FUNCTION_ARN", "arn:aws:lambda:::function:GGRouter")
SHADOW_FUNCTION_ARN = os.environ.get("SHADOW_FUNCTION_ARN", "arn:aws:lambda:::function:GGShadowService")
SECRETS_MANAGER_FUNCTION_ARN = os.environ.get(
    "SECRETS_MANAGER_FUNCTION_ARN", "arn:aws:lambda:::function:GGSecretManager"
)

_NAME = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
_REGION = os.environ.get("AWS_REGION", "us-east-1")
MY_FUNCTION_ARN = os.environ.get("MY_FUNCTION_ARN") or (
    f"arn:aws:lambda:{_REGION}:000000000000:function:{_NAME}" if _NAME else None
)
