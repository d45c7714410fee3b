"""Generate answers in batches, greedily or by sampling. An interrupted run that writes to a file can be resumed.

Batches are padded on the left, as large as a GPU's memory allows, and rows leave them when their answers are complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor

from taughtby.capture.budget import generation_budget, halve_budget
from taughtby.capture.decoder_inputs import caches_keys_and_values
from taughtby.data.batching import collate
from taughtby.data.example import Example, prompt_source
from taughtby.data.tokenize import TokenizedExample, prompt_ids
from taughtby.errors import LabError, OptionError, out_of_memory
from taughtby.lab.answers import AnswerDraft, write_jsonl
from taughtby.lab.endpoint import Endpoint
from taughtby.lab.prompts import Prompt, prompt_text, to_record
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

STEPS = 16  # tokens after which rows with complete answers leave the batch
Progress = Callable[[int, int], Any]


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are generated.

    Each sample has its own random generator, seeded by `seed`, the prompt's position and the sample's number, so that
    it does not depend on the other prompts in the batch. In bfloat16, the rounding of logits depends on the batch,
    which can decide near ties.

    Attributes:
        max_new_tokens: Maximum tokens per answer.
        num_samples: Answers per prompt.
        temperature: 0 is greedy. None is 0 for one sample, and 1 for several.
        seed: Seed for sampling.
    """

    max_new_tokens: int = 48
    num_samples: int = 1
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_samples < 1 or not 0 <= self.effective_temperature < float("inf"):
            got = (f"max_new_tokens {self.max_new_tokens}, num_samples {self.num_samples}, "
                   f"temperature {self.temperature}")  # fmt: skip
            do = "use at least one token and one answer, and a temperature of 0 or more"
            raise OptionError("no answer can be generated with these options", got=got, do=do)
        if self.num_samples > 1 and not self.effective_temperature:
            do = "use one sample, or a temperature above 0"
            raise OptionError("at temperature 0 all answers are the same", got=f"{self.num_samples} samples", do=do)

    @property
    def effective_temperature(self) -> float:
        """The temperature, with None replaced by its default."""
        return float(self.num_samples > 1) if self.temperature is None else self.temperature


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 48,
    num_samples: int = 1,
    temperature: float | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    template: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Generate answers.

    Args:
        model: The model; with an adapter, the fine-tuned one.
        prompts: Questions or conversations.
        max_new_tokens: As in `GenerationOptions`.
        num_samples: As in `GenerationOptions`.
        temperature: As in `GenerationOptions`.
        seed: As in `GenerationOptions`.
        token_budget: Padded tokens per batch, including answers; by default as many as fit into a GPU, 2,048 on a CPU.
        template: The chat template as in `Encoding`; None for the tokenizer's own.
        progress: Called with (answers done, total answers).

    Returns:
        The answers in the order of the prompts, with all samples of a prompt together.

    Raises:
        LabError: A prompt does not fit in the model's context.
    """
    options = GenerationOptions(max_new_tokens, num_samples, temperature, seed)
    answers = dict(_answers(model, prompts, options, (), token_budget, template, progress))
    return [answers[index] for index in range(len(prompts) * num_samples)]


def generate_to_file(
    out: Path, model: Model | Endpoint, prompts: Sequence[Prompt], options: GenerationOptions, *,
    template: str | None = None, progress: Progress | None = None,
) -> int:  # fmt: skip
    """Generate answers, and write prompts and answers to a JSONL file; return their number.

    Finished answers are stored in `OUT.draft`. Repeat the same call to resume an interrupted one from there. The chat
    template of an `Endpoint` is the server's.
    """
    records = [to_record(prompt, "") for prompt in prompts]
    remote = isinstance(model, Endpoint)
    source = {"endpoint": str(model.address), "model": model.model} if remote else {
        **model.fingerprint, "dtype": str(model.dtype), "template": template}  # fmt: skip
    digest = hashlib.sha256(json.dumps(records).encode()).hexdigest()[:16]
    with AnswerDraft(out, {**source, **asdict(options), "prompts": digest}) as draft:
        answers = (_remote_answers(model, prompts, options, draft.answers, progress) if remote else
                   _answers(model, prompts, options, draft.answers, None, template, progress))  # fmt: skip
        for index, answer in answers:
            draft.add(index, answer)
    count = options.num_samples
    rows = [to_record(prompts[index // count], answer) for index, answer in sorted(draft.answers.items())]
    if count > 1:
        rows = [{**row, "sample": index % count} for index, row in enumerate(rows)]
    write_jsonl(rows, out)
    draft.path.unlink()
    return len(rows)


def _remote_answers(
    endpoint: Endpoint, prompts: Sequence[Prompt], options: GenerationOptions, finished: Collection[int],
    progress: Progress | None,
) -> Iterator[tuple[int, str]]:  # fmt: skip
    """Like `_answers`, from a server."""
    total, done = len(prompts) * options.num_samples, len(finished)
    missing = {index: prompts[index // options.num_samples] for index in range(total) if index not in finished}
    temperature = options.effective_temperature
    for answer in endpoint.answers(missing, options.max_new_tokens, temperature, options.seed):
        yield answer
        done += 1
        if progress:
            progress(done, total)


def _prompt_tokens(tokenizer: Any, prompt: Prompt, template: str | None) -> list[int]:
    """Token ids of a prompt; those of a pretokenized row before its first loss contain the chat template already."""
    if isinstance(prompt, Example) and prompt.loss_positions:
        return list(prompt.token_ids[: prompt.loss_positions[0]])
    return prompt_ids(tokenizer, prompt, template)


def _answers(
    model: Model, prompts: Sequence[Prompt], options: GenerationOptions, finished: Collection[int],
    token_budget: int | None, template: str | None, progress: Progress | None,
) -> Iterator[tuple[int, str]]:  # fmt: skip
    """Yield (index, answer) for each unfinished answer; index = prompt index · num_samples + sample index."""
    ids = [_prompt_tokens(model.tokenizer, prompt, template) for prompt in prompts]
    _refuse_long(model, prompts, ids, options.max_new_tokens)
    total, finished = len(prompts) * options.num_samples, set(finished)
    by_index = {index: ids[index // options.num_samples] for index in range(total) if index not in finished}
    pending, done = sorted(by_index, key=lambda index: (len(by_index[index]), index)), len(finished)
    max_rows = total  # rows per batch; reduced when memory runs out
    while pending:
        budget = token_budget or generation_budget(model)
        widths = [len(by_index[index]) + options.max_new_tokens for index in pending]
        size = next((n for n in range(1, len(pending)) if n == max_rows or widths[n] * (n + 1) > budget), len(pending))
        batch = pending[:size]
        try:
            answers = _generate(model, [by_index[index] for index in batch], options, batch)
        except RuntimeError as error:  # includes torch.OutOfMemoryError
            if size == 1 or not out_of_memory(error):
                raise
            max_rows = size // 2
            halve_budget(model)
            continue
        pending = pending[size:]
        yield from zip(batch, answers, strict=True)
        done += len(batch)
        if progress:
            progress(done, total)


def _refuse_long(model: Model, prompts: Sequence[Prompt], ids: Sequence[list[int]], max_new_tokens: int) -> None:
    """Raise a LabError that counts the prompts that leave no room for an answer, and names the first."""
    long = [(prompt, row) for prompt, row in zip(prompts, ids, strict=True)
            if len(row) + max_new_tokens > model.context_length]  # fmt: skip
    if long:
        prompt, row = long[0]
        which = prompt_source(prompt) or "a prompt"
        count = f" (one of {len(long)} such prompts)" if len(long) > 1 else ""
        raise LabError(
            f"{which} and its answer exceed the model's context length{count}",
            got=f"{len(row)} + {max_new_tokens} tokens, context length {model.context_length}: "
                f"{prompt_text(prompt)[:60]}…",
            do="shorten or remove such prompts, or reduce --max-new-tokens",
        )  # fmt: skip


@torch.no_grad()
def _generate(
    model: Model, prompts: Sequence[list[int]], options: GenerationOptions, indices: Sequence[int]
) -> list[str]:
    """Generate a batch of answers, `STEPS` tokens at a time, without the rows whose answers are complete."""
    batch = collate([TokenizedExample(tuple(row), len(row)) for row in prompts], indices, side="left")
    ids, mask = batch.ids.to(model.device), batch.attention_mask.long().to(model.device)
    lm, start, pad = model.peft or model.lm, batch.ids.shape[1], model.tokenizer.pad_token_id
    noise = _GumbelNoise(options, indices) if options.effective_temperature else None
    step = STEPS if caches_keys_and_values(model) else options.max_new_tokens
    end = lm.generation_config.eos_token_id  # 0 is a token
    ends = torch.tensor([] if end is None else end, device=ids.device).flatten()
    rows, cache, answers = torch.arange(len(prompts)), None, [""] * len(prompts)
    while len(rows):
        remaining = options.max_new_tokens - (ids.shape[1] - start)
        output = lm.generate(
            input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=min(step, remaining),
            do_sample=False, pad_token_id=0 if pad is None else pad, temperature=None, top_p=None, top_k=None,
            # what else a model's generation_config.json may ask for, such as a fixed cache, cannot be passed on
            use_cache=True, cache_implementation=None, num_beams=1, num_return_sequences=1, stop_strings=None,
            prompt_lookup_num_tokens=None,
            logits_processor=[noise] if noise else None, return_dict_in_generate=True,
        )  # fmt: skip
        ids, cache = output.sequences, output.past_key_values
        complete = torch.isin(ids[:, start:], ends).any(1).cpu() | (ids.shape[1] - start >= options.max_new_tokens)
        for row in complete.nonzero()[:, 0].tolist():
            text = model.tokenizer.decode(ids[row, start:], skip_special_tokens=True)
            answers[int(rows[row])] = text.strip()
        kept = (~complete).nonzero()[:, 0]
        rows, kept_on_device = rows[kept], kept.to(ids.device)
        ids = ids[kept_on_device]
        mask = torch.nn.functional.pad(mask[kept_on_device], (0, ids.shape[1] - mask.shape[1]), value=1)
        if len(rows) and len(kept) < len(complete):
            cache.batch_select_indices(kept_on_device)
            if noise:
                noise.keep(kept.tolist())
    return answers


class _GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise, so that the argmax samples from the softmax (the Gumbel-max trick); one generator per row."""

    def __init__(self, options: GenerationOptions, indices: Sequence[int]) -> None:
        names = [f"{options.seed} {divmod(index, options.num_samples)}".encode() for index in indices]
        seeds = [int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1 for name in names]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = options.effective_temperature

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the generators of these rows only."""
        self.generators = [self.generators[row] for row in rows]

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Return the logits divided by the temperature, with Gumbel noise added."""
        noise = [torch.empty(scores.shape[1]).exponential_(generator=generator) for generator in self.generators]
        return scores.float() / self.temperature - torch.stack(noise).log().to(scores.device)
