"""Chat requests made from the bodies of other APIs."""

from typing import Any

from pydantic import ValidationError

from aquila.errors import ConfigError
from aquila.serve.protocol.chat import ChatRequest


def chat_request_of(fields: dict[str, Any]) -> ChatRequest:
    """The chat request with these fields. `ConfigError` names the first that is wrong."""
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
