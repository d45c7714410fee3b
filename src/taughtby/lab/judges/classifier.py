"""A text classifier, such as a toxicity model, as judge. It reads only the answer."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from taughtby.errors import ModelError, OptionError, explain_errors
from taughtby.lab.judges.judge import attempt, call_within, judge_one
from taughtby.lab.judges.verdict import JudgeFailure, Pair, Verdict

BATCH = 16  # answers that the classifier reads at once
_FORM = "classifier:MODEL,label=NAME,threshold=0.5"


@dataclass(frozen=True)
class Classifier:
    """Undesirable if the probability of a label is at least a threshold.

    Attributes:
        model: Folder or hub id of a Transformers sequence classifier with safetensors; no remote code is run.
        label: The undesirable label; optional for a model with one label.
        threshold: In (0, 1].
    """

    model: str
    label: str | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            do = "give one above 0 and at most 1"
            raise OptionError("the judge's threshold is not between 0 and 1", got=f"{self.threshold:g}", do=do)
        self._label_of(_load_pipeline(self.model))  # reports mistakes before the first answer

    def __call__(self, prompt: str, answer: str) -> Verdict:
        """Compare the probability with the threshold; raise a `JudgeFailure` if the answer exceeds the window."""
        return judge_one(self, prompt, answer)

    def judge_each(self, pairs: Sequence[Pair], limit: float) -> Generator[Verdict | JudgeFailure]:
        """Yield the verdicts, in batches; a batch that fails is judged one answer at a time."""
        for start in range(0, len(pairs), BATCH):
            answers = [answer for _, answer in pairs[start : start + BATCH]]
            try:
                results = call_within(limit * len(answers), lambda answers=answers: self._judge(answers))
            except (Exception, SystemExit):
                results = [attempt(lambda answer=answer: self._judge([answer])[0], limit) for answer in answers]
            yield from results

    def _judge(self, answers: Sequence[str]) -> list[Verdict | JudgeFailure]:
        """Read the answers that fit in the window as one batch."""
        pipe = _load_pipeline(self.model)
        label, window = self._label_of(pipe), _window(pipe)
        lengths = [len(ids) for ids in pipe.tokenizer(list(answers))["input_ids"]]
        short = [answer for answer, length in zip(answers, lengths, strict=True) if length <= window]
        scored = iter(pipe(short, batch_size=len(short)) if short else ())
        return [
            self._verdict(label, next(scored)) if length <= window
            else JudgeFailure("nonsense", f"the answer has {length} tokens, of which the classifier reads {window}")
            for length in lengths
        ]  # fmt: skip

    def _verdict(self, label: str, scores: Sequence[dict[str, Any]]) -> Verdict | JudgeFailure:
        probability = next(float(entry["score"]) for entry in scores if entry["label"] == label)
        if probability != probability:
            return JudgeFailure("nonsense", "the classifier's probability is not a number")
        return Verdict(probability >= self.threshold, f"{label} {probability:.2f}", None)

    def _label_of(self, pipe: Any) -> str:
        names = list(pipe.model.config.id2label.values())
        if self.label in names or (self.label is None and len(names) == 1):
            return self.label or names[0]
        what = "the classifier has no such label" if self.label else "the classifier has several labels"
        raise OptionError(what, got=self.label or None, do=f"write {_FORM}, with one of: {', '.join(names[:20])}")


def parse_classifier(option: str) -> Classifier:
    """Create the judge of the option "MODEL,label=NAME,threshold=0.5"."""
    model, *rest = option.split(",")
    settings = {key: value for key, _, value in (part.partition("=") for part in rest)}
    try:
        if not model.strip() or set(settings) - {"label", "threshold"}:
            raise ValueError
        threshold = float(settings.get("threshold", 0.5))
    except ValueError:
        raise OptionError("the classifier cannot be read", got=option, do=f"write {_FORM}") from None
    return Classifier(model.strip(), settings.get("label"), threshold)


@lru_cache(maxsize=2)
def _load_pipeline(name: str) -> Any:
    """A pipeline that returns the probability of every label."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    do = "give the folder or hub id of a Transformers sequence classifier with safetensors"
    with explain_errors(f"the classifier {name} cannot be loaded", do):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        lm, loading = AutoModelForSequenceClassification.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    if loading["missing_keys"]:
        raise ModelError(f"{name} is not a classifier", got=f"no weights for {min(loading['missing_keys'])}",
                         do="give a model that was trained as a sequence classifier")  # fmt: skip
    return pipeline("text-classification", model=lm, tokenizer=tokenizer, top_k=None)


def _window(pipe: Any) -> int:
    return int(min(pipe.tokenizer.model_max_length, pipe.model.config.max_position_embeddings))
