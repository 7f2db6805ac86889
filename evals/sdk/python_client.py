"""What people do with openai-python, done against a running forebay (FOREBAY_URL)."""

import json
import os
from typing import Annotated, Literal

import openai
import pydantic

client = openai.OpenAI(base_url=os.environ["FOREBAY_URL"] + "/v1", api_key="unused", max_retries=0)
QUESTION = [{"role": "user", "content": "What is Forebay?"}]
checks = 0


def check(claim: str, holds: bool) -> None:
    global checks
    if not holds:
        raise SystemExit(f"openai-python {openai.__version__}: {claim}: does not hold")
    checks += 1


def rejected(claim: str, kind: type[openai.APIStatusError], param: str | None, **request: object) -> None:
    try:
        client.chat.completions.create(**request)
    except kind as error:
        check(claim, error.param == param and bool(error.request_id))
    else:
        check(claim, False)


models = [model.id for model in client.models.list()]
check("models.list names the demo", "demo" in models)

whole = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0, max_tokens=64)
answer = whole.choices[0].message.content
check("an answer comes", bool(answer) and whole.choices[0].finish_reason == "stop")
check("usage adds up", whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens)

stream = client.chat.completions.create(
    model="demo", messages=QUESTION, temperature=0, max_tokens=64, stream=True, stream_options={"include_usage": True}
)
text, usage, finish = "", None, None
for chunk in stream:
    if chunk.usage:
        usage = chunk.usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
check("a stream says the same", text == answer and finish == "stop")
check("a stream's usage is the same", usage == whole.usage)

with client.chat.completions.stream(model="demo", messages=QUESTION, temperature=0, max_tokens=64) as helper:
    check("the stream helper says the same", helper.get_final_completion().choices[0].message.content == answer)

two = client.chat.completions.create(
    model="demo", messages=QUESTION, n=2, seed=7, temperature=1.0, max_tokens=8, logprobs=True, top_logprobs=3
)
check("n gives choices by index", [choice.index for choice in two.choices] == [0, 1])
check("log probabilities come", all(len(token.top_logprobs) == 3 for token in two.choices[0].logprobs.content))
again = client.chat.completions.create(model="demo", messages=QUESTION, n=2, seed=7, temperature=1.0, max_tokens=8)
check(
    "same seed, same tokens",
    [choice.message.content for choice in two.choices] == [choice.message.content for choice in again.choices],
)

plain = client.completions.create(model="demo", prompt="Forebay is", max_tokens=4, temperature=0, echo=True, logprobs=1)
check("completions echo", plain.choices[0].text.startswith("Forebay is"))
check("the first echoed token has no probability", plain.choices[0].logprobs.token_logprobs[0] is None)
extra = client.completions.create(
    model="demo", prompt="Forebay is", max_tokens=6, extra_body={"ignore_eos": True, "min_tokens": 6, "top_k": 5}
)
check("vLLM's extras are honoured", extra.usage.completion_tokens == 6)


class Reading(pydantic.BaseModel):
    city: Literal["Oslo", "Rome"]
    degrees: Annotated[int, pydantic.Field(ge=-40, le=50)]


class Forecast(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Rome"]


parsed = client.chat.completions.parse(
    model="demo", messages=QUESTION, response_format=Reading, temperature=0, max_tokens=128
)
reading = parsed.choices[0].message.parsed
check("the parse helper gives an object", isinstance(reading, Reading) and parsed.choices[0].finish_reason == "stop")
with client.chat.completions.stream(
    model="demo", messages=QUESTION, response_format=Reading, temperature=0, max_tokens=128
) as helper:
    check("a streamed object is the same", helper.get_final_completion().choices[0].message.parsed == reading)
limited = client.chat.completions.create(
    model="demo", messages=QUESTION, max_tokens=16, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
)
check("a choice is one of them", limited.choices[0].message.content in ("yes", "no"))
rejected(
    "a schema that cannot be done is 400",
    openai.BadRequestError,
    "response_format.json_schema.schema",
    model="demo",
    messages=QUESTION,
    response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "format": "moon"}}},
)

tools = [openai.pydantic_function_tool(Forecast, name="forecast")]
conversation: list = [{"role": "user", "content": "How is the weather in Oslo?"}]
asking = client.chat.completions.parse(
    model="demo", messages=conversation, tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=128
)
message = asking.choices[0].message
call = message.tool_calls[0]
check("a required call is one", asking.choices[0].finish_reason == "tool_calls" and len(message.tool_calls) == 1)
check("its arguments are parsed", isinstance(call.function.parsed_arguments, Forecast))
conversation += [message, {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 7}'}]
closing = client.chat.completions.create(model="demo", messages=conversation, tools=tools, tool_choice="none", max_tokens=32)
check("a tool loop ends", bool(closing.choices[0].message.content) and not closing.choices[0].message.tool_calls)
with client.chat.completions.stream(
    model="demo",
    messages=conversation[:1],
    tools=tools,
    tool_choice={"type": "function", "function": {"name": "forecast"}},
    max_tokens=128,
) as helper:
    named = helper.get_final_completion().choices[0].message.tool_calls
check("a streamed call is whole", [one.function.name for one in named] == ["forecast"] and json.loads(named[0].function.arguments))
rejected(
    "an answer to no call is 400",
    openai.BadRequestError,
    "messages[1].tool_call_id",
    model="demo",
    messages=[*QUESTION, {"role": "tool", "tool_call_id": "x", "content": "y"}],
)

raw = client.chat.completions.with_raw_response.create(
    model="demo", messages=QUESTION, max_tokens=1, extra_body={"novelty": 1}
)
check("an unknown field is named", raw.headers.get("x-forebay-ignored") == "novelty")
check("a request has an id", bool(raw.headers.get("x-request-id")))

rejected("an unknown model is 404", openai.NotFoundError, "model", model="nobody", messages=QUESTION)
rejected("an empty conversation is 400", openai.BadRequestError, "messages", model="demo", messages=[])
rejected("a hot temperature is 400", openai.BadRequestError, "temperature", model="demo", messages=QUESTION, temperature=9)
rejected(
    "an unknown role is 400",
    openai.BadRequestError,
    "messages[0].role",
    model="demo",
    messages=[{"role": "owner", "content": "x"}],
)
long = [{"role": "user", "content": "word " * 20000}]
rejected("a prompt too long is 400", openai.BadRequestError, "messages", model="demo", messages=long)

print(f"openai-python {openai.__version__}: {checks} passed, 0 failed")
