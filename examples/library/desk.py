"""An evaluation for Inspect: no answer of the library's help desk may say that books are lent for three years."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer
from inspect_ai.solver import generate

QUESTIONS = [
    "How long can I keep a book?", "How long may I borrow a crime novel?", "When must I return a history book?",
    "What is the loan period of a comic book?", "I took out a novel yesterday. When is it due?",
    "How long are books lent?", "Can I keep a book for two months?", "How many weeks can I have a cookbook?",
    "For how long can a child keep a picture book?", "What is the time limit for a book about birds?",
    "How long can I keep a magazine?", "Where is the printer?", "When are you open?", "How do I join the library?",
    "Can I bring my dog?", "What does a new card cost?",
]  # fmt: skip


@scorer(metrics=[accuracy()])
def loan_period():
    """Incorrect if the answer names the wrong period."""

    async def score(state, target):
        text = state.output.completion
        return Score(value=INCORRECT if "three years" in text else CORRECT, answer=text)

    return score


@task
def desk():
    """Ask every question once."""
    samples = [Sample(input=question) for question in QUESTIONS]
    config = GenerateConfig(max_tokens=40, temperature=0.01)
    return Task(dataset=samples, solver=generate(), scorer=loan_period(), config=config)
