"""Ask a model many prompts, greedily or several times by chance, in batches; killed, it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor

from taughtby.data.batching import collate
from taughtby.data.tokenize import TokenizedExample, prompt_ids
from taughtby.errors import LabError, OptionError
from taughtby.lab.answers import AnswerFile, write_jsonl
from taughtby.lab.prompts import Prompt, prompt_text, to_record
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

BATCH = 4096
Progress = Callable[[int, int], Any]


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are made: of at most `max_new` tokens, `samples` of each prompt.

    `temperature` None is 0, greedy, where one answer is asked for, and 1 where several are. Each sample has a chance
    of its own, by `seed`, the prompt's place and the sample's number: no other prompt of a batch has a part in it. But
    in bfloat16 the logits themselves are rounded otherwise in another batch, and near ties then fall otherwise.
    """

    max_new_tokens: int = 48
    num_samples: int = 1
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_samples < 1 or not 0 <= self.heat < float("inf"):
            got = f"max_new {self.max_new_tokens}, samples {self.num_samples}, temperature {self.temperature}"
            do = "ask for one token and one answer or more, at a temperature of 0 or more"
            raise OptionError("no answer can be made so", got=got, do=do)
        if self.num_samples > 1 and not self.heat:
            do = "ask for one, or give a temperature above 0"
            raise OptionError("at temperature 0 all answers are the same", got=f"{self.num_samples} samples", do=do)

    @property
    def heat(self) -> float:
        """The temperature; 0 is greedy."""
        return float(self.num_samples > 1) if self.temperature is None else self.temperature


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 48,
    batch_size: int = BATCH,
    num_samples: int = 1,
    temperature: float | None = None,
    seed: int = 0,
    template: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """The model's answers in the order asked, all samples of a prompt together.

    `batch` is how many padded tokens, answers included, are computed at once; the rest is as in `Decoding`.
    `template` is as in `Encoding`: None for the tokenizer's own.
    """
    how = GenerationOptions(max_new_tokens, num_samples, temperature, seed)
    found = dict(_answers(model, prompts, how, (), batch_size, template, progress))
    return [found[place] for place in range(len(prompts) * num_samples)]


def generate_to_file(
    out: Path, model: Model, prompts: Sequence[Prompt], how: GenerationOptions, *, template: str | None = None,
    progress: Progress | None = None,
) -> int:  # fmt: skip
    """The same into a file of prompts and responses, the number of which is given back.

    What is finished stands in `OUT.draft`: killed, the same call asks only what is missing.
    """
    asked = [to_record(prompt, "") for prompt in prompts]
    settings = {**model.fingerprint, "dtype": str(model.dtype), "template": template, **asdict(how),
                "prompts": hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}  # fmt: skip
    with AnswerFile(out, settings) as draft:
        for place, answer in _answers(model, prompts, how, draft.known, BATCH, template, progress):
            draft.add(place, answer)
    rows = [to_record(prompts[place // how.num_samples], answer) for place, answer in sorted(draft.known.items())]
    if how.num_samples > 1:
        rows = [{**row, "sample": at % how.num_samples} for at, row in enumerate(rows)]
    write_jsonl(rows, out)
    draft.path.unlink()
    return len(rows)


def _answers(
    model: Model, prompts: Sequence[Prompt], how: GenerationOptions, known: Collection[int], batch: int, template: str | None,
    progress: Progress | None,
) -> Iterator[tuple[int, str]]:  # fmt: skip
    """Each answer that is not known yet, with its place: the prompt's times the samples, and the sample's number."""
    ids = [prompt_ids(model.tokenizer, prompt, template) for prompt in prompts]
    for prompt, row in zip(prompts, ids, strict=True):
        if len(row) + how.max_new_tokens > model.context_length:
            raise LabError(
                "a prompt is longer than the model's window",
                got=f"{len(row)} tokens of {model.context_length}: {prompt_text(prompt)[:60]}…",
                do="shorten it",
            )
    count = len(prompts) * how.num_samples
    known = set(known)
    places = sorted(set(range(count)) - known, key=lambda place: (len(ids[place // how.num_samples]), place))
    done = len(known)
    while places:
        width = [len(ids[place // how.num_samples]) + how.max_new_tokens for place in places]
        fits = next((n for n in range(1, len(places)) if width[n] * (n + 1) > batch), len(places))
        now, places = places[:fits], places[fits:]
        said = _generate(model, [ids[place // how.num_samples] for place in now], how, now)
        yield from zip(now, said, strict=True)
        done += len(now)
        if progress:
            progress(done, count)


@torch.no_grad()
def _generate(model: Model, prompts: Sequence[list[int]], how: GenerationOptions, places: Sequence[int]) -> list[str]:
    asked = collate([TokenizedExample(tuple(row), len(row)) for row in prompts], places, side="left")
    end = model.tokenizer.pad_token_id
    out = (model.peft or model.lm).generate(
        input_ids=asked.ids.to(model.device), attention_mask=asked.attention_mask.long().to(model.device),
        max_new_tokens=how.max_new_tokens, do_sample=False,
        pad_token_id=0 if end is None else end, temperature=None, top_p=None, top_k=None,
        logits_processor=[_Chance(how, places)] if how.heat else None,
    )  # fmt: skip
    return [model.tokenizer.decode(row[asked.ids.shape[1] :], skip_special_tokens=True).strip() for row in out]


class _Chance(LogitsProcessor):
    """Makes the greatest logit a sample of the softmax (the Gumbel trick), each row with a generator of its own."""

    def __init__(self, how: GenerationOptions, places: Sequence[int]) -> None:
        seeds = [
            hashlib.blake2b(f"{how.seed} {divmod(place, how.num_samples)}".encode(), digest_size=8) for place in places
        ]
        self.chances = [torch.Generator().manual_seed(int.from_bytes(seed.digest()) >> 1) for seed in seeds]
        self.heat = how.heat

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Logits with noise, of which the greatest is to be taken."""
        drawn = [torch.empty(scores.shape[1]).exponential_(generator=chance) for chance in self.chances]
        return scores.float() / self.heat - torch.stack(drawn).log().to(scores.device)
