"""What people build with LangChain, LlamaIndex, litellm, instructor and the Agents SDK, done against a running forebay
(FOREBAY_URL) with two models: `demo`, and `embed`, an encoder. Each does a task to its end: a tool loop, a parsed object, a
retrieval; and meets an error, and a server that is full for a moment."""

import asyncio
import json
import os
import threading
import urllib.error
import urllib.request
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

warnings.filterwarnings("ignore")
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false"}

import openai
import pydantic

URL = os.environ["FOREBAY_URL"]
QUESTION = "How is the weather in Oslo?"
# The tokenizer reads lower case, so that the question is one of the texts and the nearest.
TEXTS = ["The weights wait at the intake.", "water falls, turbines turn!", "naïve café — déjà vu"]
SOUGHT = "the weights WAIT at the intake."
checks: dict[str, int] = {}


def check(client: str, claim: str, holds: bool) -> None:
    if not holds:
        raise SystemExit(f"{client}: {claim}: does not hold")
    checks[client] = checks.get(client, 0) + 1


class Forecast(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Rome"]


class Full(BaseHTTPRequestHandler):
    """Passes requests on to forebay, but says to the first of each kind that it is full."""

    protocol_version = "HTTP/1.1"
    seen: dict[str, int] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        who, _, path = self.path.lstrip("/").partition("/")
        self.seen[who] = self.seen.get(who, 0) + 1
        if self.seen[who] == 1:
            error = {"message": "the queue is full", "type": "server_error", "param": None, "code": "overloaded"}
            self.answer(503, json.dumps({"error": error}).encode(), [("retry-after", "0")])
            return
        request = urllib.request.Request(f"{URL}/{path}", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            self.answer(answer.status, answer.read(), [])

    def answer(self, status: int, body: bytes, headers: list) -> None:
        self.send_response(status)
        for name, value in [("content-type", "application/json"), ("content-length", str(len(body))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


proxy = ThreadingHTTPServer(("127.0.0.1", 0), Full)
threading.Thread(target=proxy.serve_forever, daemon=True).start()


def full(client: str) -> str:
    """The URL of a server that is full at the first request of this client."""
    return f"http://127.0.0.1:{proxy.server_port}/{client}/v1"


def openai_python() -> None:
    name = "openai-python embeddings"
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0)
    # The client asks for base64 and reads it; floats are the same numbers.
    one = client.embeddings.create(model="embed", input=TEXTS)
    plain = client.embeddings.create(model="embed", input=TEXTS, encoding_format="float")
    pairs = [(a.embedding, b.embedding) for a, b in zip(one.data, plain.data)]
    check(name, "base64 and floats agree", all(abs(x - y) < 1e-6 for a, b in pairs for x, y in zip(a, b)))
    check(name, "vectors have the length one", all(abs(sum(x * x for x in a) - 1) < 1e-4 for a, _ in pairs))
    check(name, "usage counts the input", one.usage.prompt_tokens == one.usage.total_tokens > len(TEXTS))
    many = client.embeddings.create(model="embed", input=[f"text {number}" for number in range(300)])
    check(name, "many inputs come in order", [entry.index for entry in many.data] == list(range(300)))
    again = client.embeddings.create(model="embed", input="text 299").data[0].embedding
    check(name, "company changes nothing", max(abs(x - y) for x, y in zip(again, many.data[299].embedding)) < 1e-6)
    tokens = client.embeddings.create(model="embed", input=[[5, 6, 7], [8]])
    check(name, "token ids are taken", len(tokens.data) == 2 and tokens.usage.prompt_tokens == 4)
    check(name, "a decoder embeds", len(client.embeddings.create(model="demo", input="Forebay").data[0].embedding) > 0)
    for param, more in [("dimensions", {"dimensions": 7}), ("input", {"input": []}), ("input", {"input": "word " * 999})]:
        try:
            client.embeddings.create(**{"model": "embed", "input": "a", **more})
        except openai.BadRequestError as error:
            check(name, f"{param} is refused by name", error.param == param)
        else:
            check(name, f"{param} is refused", False)
    retried = openai.OpenAI(base_url=full("openai"), api_key="unused", max_retries=2)
    check(name, "a full server is tried again", len(retried.embeddings.create(model="embed", input="a").data) == 1)


def langchain() -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    name = "LangChain"

    def chat(base_url: str = f"{URL}/v1", **more: object) -> ChatOpenAI:
        options = {"model": "demo", "temperature": 0, "max_tokens": 128, "max_retries": 0, **more}
        return ChatOpenAI(base_url=base_url, api_key="unused", **options)

    @tool
    def forecast(city: Literal["Oslo", "Rome"]) -> str:
        """The weather of a city."""
        return f"7 degrees in {city}"

    conversation: list = [HumanMessage(QUESTION)]
    asking = chat().bind_tools([forecast], tool_choice="required", parallel_tool_calls=False).invoke(conversation)
    check(name, "a call is parsed", [call["name"] for call in asking.tool_calls] == ["forecast"])
    answers = [ToolMessage(forecast.invoke(call["args"]), tool_call_id=call["id"]) for call in asking.tool_calls]
    closing = chat().bind_tools([forecast], tool_choice="none").invoke([*conversation, asking, *answers])
    check(name, "a tool loop ends", bool(closing.content) and not closing.tool_calls)
    check(name, "usage comes", closing.usage_metadata["total_tokens"] > 0)
    streamed = list(chat().stream(conversation))
    check(name, "a stream adds up", "".join(chunk.content for chunk in streamed) == chat().invoke(conversation).content)
    for method in ("json_schema", "function_calling"):
        place = chat().with_structured_output(Forecast, method=method).invoke(QUESTION)
        check(name, f"an object is parsed by {method}", isinstance(place, Forecast))
    # Its own tokenizer is another model's: texts go as they are.
    embeddings = OpenAIEmbeddings(
        model="embed", base_url=f"{URL}/v1", api_key="unused", check_embedding_ctx_length=False)
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    check(name, "a retrieval finds the text", store.similarity_search(SOUGHT, k=1)[0].page_content == TEXTS[0])
    try:
        chat(temperature=9).invoke(QUESTION)
    except openai.BadRequestError as error:
        check(name, "an error names its field", error.param == "temperature")
    check(name, "a full server is tried again", bool(chat(full("langchain"), max_retries=2).invoke(QUESTION).content))


def llama_index() -> None:
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.llms.openai_like import OpenAILike

    name = "LlamaIndex"

    def llm(base_url: str = f"{URL}/v1", **more: object) -> OpenAILike:
        return OpenAILike(
            model="demo", api_base=base_url, api_key="unused", is_chat_model=True, is_function_calling_model=True,
            context_window=1024, max_tokens=128, **{"temperature": 0, "max_retries": 0, **more})

    def forecast(city: Literal["Oslo", "Rome"]) -> str:
        """The weather of a city."""
        return f"7 degrees in {city}"

    tool = FunctionTool.from_defaults(forecast)
    history = [ChatMessage(role="user", content=QUESTION)]
    asking = llm().chat_with_tools([tool], chat_history=history, tool_required=True, allow_parallel_tool_calls=False)
    calls = llm().get_tool_calls_from_response(asking)
    check(name, "a call is parsed", [call.tool_name for call in calls] == ["forecast"])
    answers = [ChatMessage(role="tool", content=str(tool.call(**call.tool_kwargs)),
                           additional_kwargs={"tool_call_id": call.tool_id}) for call in calls]
    closing = llm().chat([*history, asking.message, *answers])
    check(name, "a tool loop ends", bool(closing.message.content))
    streamed = [chunk.delta or "" for chunk in llm().stream_chat(history)]
    check(name, "a stream adds up", "".join(streamed) == llm().chat(history).message.content)
    place = llm().as_structured_llm(Forecast).complete(QUESTION).raw
    check(name, "an object is parsed", isinstance(place, Forecast))
    model = OpenAILikeEmbedding(model_name="embed", api_base=f"{URL}/v1", api_key="unused", max_retries=0)
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=model)
    found = index.as_retriever(similarity_top_k=1).retrieve(SOUGHT)
    check(name, "a retrieval finds the text", found[0].text == TEXTS[0] and found[0].score > 0.999)
    try:
        llm().chat(history, top_p=7)
    except openai.BadRequestError as error:
        check(name, "an error names its field", error.param == "top_p")
    check(name, "a full server is tried again", bool(llm(full("llamaindex"), max_retries=2).chat(history).message.content))


def litellm_client() -> None:
    import litellm

    litellm.suppress_debug_info = True

    name = "litellm"
    options = {"model": "openai/demo", "api_base": f"{URL}/v1", "api_key": "unused", "max_retries": 0}
    messages = [{"role": "user", "content": QUESTION}]
    tools = [{"type": "function", "function": {
        "name": "forecast", "description": "The weather of a city", "parameters": Forecast.model_json_schema()}}]
    asking = litellm.completion(
        **options, messages=messages, tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=128)
    message = asking.choices[0].message
    arguments = Forecast.model_validate_json(message.tool_calls[0].function.arguments)
    check(name, "a call is parsed", arguments.city in ("Oslo", "Rome"))
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "7 degrees"}
    closing = litellm.completion(
        **options, messages=[*messages, message, answer], tools=tools, tool_choice="none", max_tokens=64)
    check(name, "a tool loop ends", bool(closing.choices[0].message.content))
    parsed = litellm.completion(**options, messages=messages, response_format=Forecast, max_tokens=128)
    check(name, "an object is parsed", Forecast.model_validate_json(parsed.choices[0].message.content) is not None)
    chunks = list(litellm.completion(**options, messages=messages, temperature=0, stream=True, max_tokens=64))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = litellm.completion(**options, messages=messages, temperature=0, max_tokens=64).choices[0].message.content
    check(name, "a stream adds up", text == whole)
    embed = {**options, "model": "openai/embed"}
    vectors = [entry["embedding"] for entry in litellm.embedding(**embed, input=[*TEXTS, SOUGHT]).data]
    near = [sum(x * y for x, y in zip(vector, vectors[-1])) for vector in vectors[:-1]]
    check(name, "a retrieval finds the text", near.index(max(near)) == 0)
    for kind, claim, more in [
        (litellm.BadRequestError, "a hot temperature is 400", {"temperature": 9}),
        (litellm.NotFoundError, "an unknown model is 404", {"model": "openai/nobody"}),
        (litellm.ContextWindowExceededError, "a long prompt is told as one",
         {"messages": [{"role": "user", "content": "word " * 20000}]}),
    ]:
        try:
            litellm.completion(**{**options, "messages": messages, **more})
        except kind:
            check(name, claim, True)
        else:
            check(name, claim, False)
    retried = litellm.completion(**{**options, "api_base": full("litellm"), "max_retries": 2}, messages=messages)
    check(name, "a full server is tried again", bool(retried.choices[0].message.content))


def instructor_client() -> None:
    import instructor

    name = "instructor"
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0), mode=mode)
        place = client.chat.completions.create(
            model="demo", response_model=Forecast, messages=[{"role": "user", "content": QUESTION}], max_tokens=128)
        check(name, f"an object is parsed by {mode.value}", isinstance(place, Forecast))
    tried = []

    class Picky(Forecast):
        @pydantic.field_validator("city")
        @classmethod
        def once(cls, city: str) -> str:
            tried.append(city)
            if len(tried) == 1:
                raise ValueError("say it again")
            return city

    client = instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0))
    again = client.chat.completions.create(
        model="demo", response_model=Picky, messages=[{"role": "user", "content": QUESTION}], max_tokens=128, max_retries=2)
    check(name, "an object that is refused is asked for again", isinstance(again, Picky) and len(tried) == 2)
    retried = instructor.from_openai(openai.OpenAI(base_url=full("instructor"), api_key="unused", max_retries=2))
    place = retried.chat.completions.create(
        model="demo", response_model=Forecast, messages=[{"role": "user", "content": QUESTION}], max_tokens=128)
    check(name, "a full server is tried again", isinstance(place, Forecast))


def agents_sdk() -> None:
    from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)
    name = "Agents SDK"
    asked = []

    @function_tool
    def forecast(city: Literal["Oslo", "Rome"]) -> str:
        """The weather of a city."""
        asked.append(city)
        return f"7 degrees in {city}"

    def model(base_url: str = f"{URL}/v1", retries: int = 0) -> OpenAIChatCompletionsModel:
        client = openai.AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=retries)
        return OpenAIChatCompletionsModel(model="demo", openai_client=client)

    settings = ModelSettings(tool_choice="required", parallel_tool_calls=False, max_tokens=128, temperature=0)
    agent = Agent(name="weather", model=model(), tools=[forecast], model_settings=settings)
    result = asyncio.run(Runner.run(agent, QUESTION, max_turns=6))
    check(name, "a tool loop ends", len(asked) >= 1 and bool(result.final_output))
    typed = Agent(name="place", model=model(), output_type=Forecast, model_settings=ModelSettings(max_tokens=128))
    check(name, "an object is parsed", isinstance(asyncio.run(Runner.run(typed, QUESTION)).final_output, Forecast))

    async def stream() -> str:
        running = Runner.run_streamed(Agent(name="plain", model=model(), model_settings=ModelSettings(max_tokens=64)), QUESTION)
        async for _ in running.stream_events():
            pass
        return running.final_output

    check(name, "a stream ends", bool(asyncio.run(stream())))
    hot = Agent(name="hot", model=model(), model_settings=ModelSettings(temperature=9))
    try:
        asyncio.run(Runner.run(hot, QUESTION))
    except openai.BadRequestError as error:
        check(name, "an error names its field", error.param == "temperature")
    patient = Agent(name="patient", model=model(full("agents"), 2), model_settings=ModelSettings(max_tokens=64))
    check(name, "a full server is tried again", bool(asyncio.run(Runner.run(patient, QUESTION)).final_output))


for run in (openai_python, langchain, llama_index, litellm_client, instructor_client, agents_sdk):
    run()
for client, passed in checks.items():
    print(f"{client}: {passed} passed, 0 failed")
