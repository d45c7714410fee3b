"""Answers from a model behind an OpenAI-compatible server, such as vLLM, by parallel requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import httpx2

from taughtby.data.example import prompt_source, shorten
from taughtby.errors import LabError, OptionError
from taughtby.lab import chat_server
from taughtby.lab.prompts import Prompt

LIMIT = 120.0  # timeout in seconds per answer


@dataclass(frozen=True)
class Endpoint:
    """A model behind a server.

    The server applies its own chat template. An address that ends with `/completions`, but not with
    `/chat/completions`, is a plain-text endpoint: each question is sent unchanged.

    Attributes:
        url: The address of the server, such as http://localhost:8000/v1.
        model: The name by which the server knows the model.
        limit: Timeout in seconds of each attempt at one answer.
        concurrency: Number of parallel requests.
    """

    url: str
    model: str
    limit: float = LIMIT
    concurrency: int = chat_server.CONCURRENCY

    def __post_init__(self) -> None:
        address = chat_server.parse_address(self.url)
        if address is None:
            do = "write, for example, http://localhost:8000/v1"
            raise OptionError("the server's address is not valid", got=self.url, do=do)
        if address.userinfo or address.query:  # the address is stored beside unfinished answers
            do = f"give the address alone, and set the environment variable {chat_server.KEY}"
            raise OptionError("the server's address must not contain a key", do=do)
        if self.limit <= 0 or self.concurrency < 1:
            got = f"{self.limit:g} s, {self.concurrency} requests"
            do = "give a time above 0, and at least one request"
            raise OptionError("no request can be sent with these options", got=got, do=do)

    @property
    def address(self) -> httpx2.URL:
        """The address for requests."""
        return chat_server.completions_address(httpx2.URL(self.url))

    def answers(
        self, prompts: Mapping[int, Prompt], max_new_tokens: int, temperature: float, seed: int
    ) -> Iterator[tuple[int, str]]:
        """Yield (index, answer) as answers arrive. At a temperature above 0, the seed of each is `seed` + index.

        Raises:
            LabError: The server cannot be reached, does not reply in time, or rejects a request.
        """
        options = {"model": self.model, "max_tokens": max_new_tokens, "temperature": temperature}
        bodies = {
            index: options | ({"seed": seed + index} if temperature else {}) | self._input(prompt)
            for index, prompt in prompts.items()
        }
        pool = ThreadPoolExecutor(self.concurrency)
        with chat_server.open_client(self.address, self.limit) as client:
            try:
                requests = {pool.submit(self._answer, client, body): index for index, body in bodies.items()}
                for request in as_completed(requests):
                    yield requests[request], request.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _input(self, prompt: Prompt) -> dict[str, Any]:
        """The part of a request that holds the prompt."""
        chat = self.address.path.endswith("/chat/completions")
        if isinstance(prompt, str):
            return {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        if not chat:
            what = f"{prompt_source(prompt) or 'a prompt'} is a conversation, and the server reads plain text"
            raise LabError(what, got=str(self.address), do="give an address that ends with /chat/completions")
        more = {"tools": list(prompt.tools), "chat_template_kwargs": dict(prompt.template_kwargs)}
        return {"messages": list(prompt.prompt)} | {name: value for name, value in more.items() if value}

    def _answer(self, client: httpx2.Client, body: dict[str, Any]) -> str:
        try:
            response = chat_server.post(client, self.address, body)
        except chat_server.NoReplyError as failure:
            what = "does not reply" if failure.kind == "hung" else "cannot be reached"
            do = "check that it runs and that its address is correct; the same command resumes with the missing answers"
            raise LabError(
                f"the server at {self.url} {what}, tried {chat_server.TRIES} times", got=failure.reason, do=do
            ) from None
        except chat_server.RejectedError as fault:
            do = f"check the address, the model's name, and the key in {chat_server.KEY}, {chat_server.KEY_SENT}"
            raise LabError(f"the server at {self.url} rejected a request", got=str(fault), do=do) from None
        try:
            choice = response.json()["choices"][0]
            text = choice["text"] if "prompt" in body else choice["message"]["content"]
        except (ValueError, LookupError, TypeError):
            do = "give the address of an OpenAI-compatible server, such as http://localhost:8000/v1"
            got = shorten(chat_server.redact(response.text, client))
            raise LabError(f"the server at {self.url} did not send an answer", got=got, do=do) from None
        return str(text or "").strip()  # None for an answer that only calls tools
