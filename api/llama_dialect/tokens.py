"""`POST /tokenize` and `/detokenize`."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from typing_extensions import TypedDict

from api.errors import ApiError
from api.json_route import StrictJsonRoute
from api.llama_dialect.bodies import DetokenizeBody, TokenizeBody
from api.responses import llama_error_responses
from api.services import ServicesDep
from pushkin_runtime.tokenizer import TextTokenizer

router = APIRouter(
    tags=["llama-server"],
    route_class=StrictJsonRoute,
    responses=llama_error_responses(400, 401, 403, 413, 415, 421, 503),
)


class TokenPiece(TypedDict):
    """`piece`: the token's text, or its bytes where they are not UTF-8."""

    id: int
    piece: str | list[int]


class TokenizeAnswer(TypedDict):
    """Numbers, or objects with `with_pieces`."""

    tokens: list[int] | list[TokenPiece]


class DetokenizeAnswer(TypedDict):
    """Bytes that are no UTF-8 are replaced by U+FFFD."""

    content: str


@router.post("/tokenize", summary="Text to tokens")
async def tokenize(body: TokenizeBody, services: ServicesDep) -> TokenizeAnswer:
    tokenizer = services.runtime.tokenizer()
    encode = tokenizer.encode_with_specials if body.parse_special else tokenizer.encode
    tokens = await run_in_threadpool(encode, body.content)  # a long text takes a while
    if body.add_special:
        tokens = [tokenizer.bos_id, *tokens]
    if not body.with_pieces:
        return {"tokens": tokens}
    return {"tokens": [_piece(token, tokenizer) for token in tokens]}


@router.post("/detokenize", summary="Tokens to text")
async def detokenize(body: DetokenizeBody, services: ServicesDep) -> DetokenizeAnswer:
    tokenizer = services.runtime.tokenizer()
    for place, token in enumerate(body.tokens):
        if token >= tokenizer.n_tokens:
            raise ApiError(
                "invalid_value",
                f"the vocabulary has 0 to {tokenizer.n_tokens - 1}, got {token}",
                param=f"tokens[{place}]",
            )
    text = b"".join(map(tokenizer.piece, body.tokens))
    return {"content": text.decode(errors="replace")}


def _piece(token: int, tokenizer: TextTokenizer) -> TokenPiece:
    piece = tokenizer.piece(token)
    try:
        return {"id": token, "piece": piece.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(piece)}
