"""Text to token ids and back, in vLLM's dialect (`prompt`) and llama.cpp's (`content`), and what the tokenizer has."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from aquila.errors import ConfigError
from aquila.serve.conversation import messages_of
from aquila.serve.logprobs import token_text
from aquila.serve.prompts import text_prompt
from aquila.serve.protocol.chat import ChatMessage, ChatRequest
from aquila.serve.protocol.common import Fields, Id, Many
from aquila.serve.server import Server, get_server

router = APIRouter()


class TokenizeRequest(Fields):
    """A text as `prompt` or `content`, or a conversation as `messages`."""

    prompt: str | None = None
    content: str | None = None
    messages: Many[ChatMessage] | None = Field(default=None, min_length=1)
    add_special_tokens: bool | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(Fields):
    tokens: Many[Id]


class TemplateRequest(Fields):
    messages: Many[ChatMessage] = Field(min_length=1)


@router.post("/tokenize")
def tokenize(body: TokenizeRequest, server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """Token ids of a text or of a conversation. `prompt` begins as a document does unless told otherwise."""
    model = server.model
    if body.messages is not None:
        messages = messages_of(ChatRequest(messages=body.messages), server)
        ids = server.template.encode(model.tokenizer, messages)
    else:
        text = body.content if body.prompt is None else body.prompt
        if text is None:
            raise ConfigError("prompt: there is nothing to tokenize; send a text as prompt or content")
        begin = body.add_special if body.prompt is None else body.add_special_tokens is not False
        ids = text_prompt(model, text, add_special_tokens=begin, parse_special=body.parse_special) if text else []
    found: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": model.max_context}
    if body.with_pieces:
        found["tokens"] = [{"id": each, "piece": token_text(model.tokenizer, each)} for each in ids]
    return found


@router.post("/detokenize")
def detokenize(body: DetokenizeRequest, server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """The text of token ids, special tokens included."""
    text = server.model.tokenizer.decode(body.tokens, skip_special=False)
    return {"prompt": text, "content": text}


@router.post("/apply-template")
def apply_template(body: TemplateRequest, server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """A conversation as the text that the model reads."""
    messages = messages_of(ChatRequest(messages=body.messages), server)
    return {"prompt": server.template.render(messages)}


@router.get("/tokenizer_info")
async def tokenizer_info(server: Annotated[Server, Depends(get_server)]) -> dict[str, Any]:
    """Special tokens and the chat template, for clients that prepare prompts themselves."""
    tokenizer = server.model.tokenizer

    def text(token_id: int | None) -> str | None:
        return None if token_id is None else tokenizer.token_text(token_id)

    return {
        "eos_token": text(tokenizer.eos_token_ids[0] if tokenizer.eos_token_ids else None),
        "bos_token": text(tokenizer.bos_token_id),
        "pad_token": text(tokenizer.pad_token_id),
        "add_bos_token": tokenizer.add_bos_token,
        "vocab_size": tokenizer.vocab_size,
        "chat_template": tokenizer.chat_template,
    }
