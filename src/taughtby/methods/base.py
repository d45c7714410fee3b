"""The one shape of all methods: a frozen dataclass whose fields are its options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch

from taughtby.capture.capture import resolve_layer
from taughtby.capture.layer_similarity import LayerSimilarity
from taughtby.capture.weight_gradients import (
    TrainedWeights,
    Weight,
    compact_gradient,
    find_trained_weights,
    fold,
    weight_gradients,
)
from taughtby.data.batching import Batch
from taughtby.data.example import Example
from taughtby.errors import OptionError
from taughtby.methods.feature_store import FeatureStore
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Features = dict[str, torch.Tensor | list[torch.Tensor]]  # by name: (B, d), (B,), or for each row (n, k)
Layer = int | str  # a number, "auto" (the phase transition) or a share of the depth such as "85%"


@dataclass(frozen=True)
class QueryFeatures:
    """Q queries as a method sees them: their texts and their blocks."""

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    features: Features
    mean_token_gradient: Float[Tensor, "Q d"] | None = None  # Σ_i w_i ĝ_i, Σ w = 1, for methods that tell `gradients`


@dataclass(frozen=True)
class Method:
    """How rows are compared with a query. Its `repr` is its entry in the manifest.

    One that reads the model overrides `names`, `blocks` and `parts`; one that reads words, `scores` only.
    """

    name: ClassVar[str]

    def resolve_layers(self, depth: int, curve: LayerSimilarity | None) -> Self:
        """The same method with every layer a number."""
        found = {
            f.name: layer_number(getattr(self, f.name), depth, curve) for f in fields(self) if "Layer" in str(f.type)
        }
        return replace(self, **found)

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """The names of the blocks it stores and reads: equal for two methods only if the blocks are equal too.

        So a name holds each option that changes the stored numbers; an option at its default may go without saying.
        """
        return ()

    def variant(self, *options: str) -> str:
        """The end of a block's name that holds those options: `_sketch64_seed1`; empty where all are the defaults."""
        held = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name in options]
        defaults = {f.name: f.default for f in fields(self)}
        return "".join(f"_{name}{_figure(value)}" for name, value in held if value != defaults[name])

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """The blocks of each row, and numbers such as its loss. `weights` say how much each response token counts."""
        return {}

    def needs_prompts_only(self, depth: int) -> bool:
        """Whether the model is run over the prompts of rows alone, which are then batched by their lengths."""
        return False

    def text_features(self, rows: Sequence[Example]) -> Features:
        """The blocks of each row that its text alone gives, for a method that would rather not read it again."""
        return {}

    def logprob_gain(self, model: Model, batch: Batch) -> Float[Tensor, "B R"] | None:
        """By how many nats fine-tuning made each token of a query likelier, ≥ 0; None where the method does not ask.

        Where nobody points at words, that is how much each counts.
        """
        return None

    def reweight_queries(
        self, asked: QueryFeatures, weights: Sequence[Float[Tensor, " n"]]
    ) -> tuple[QueryFeatures, list[Float[Tensor, " n"]]]:
        """The queries and their tokens' weights, for a method in which queries tell of each other."""
        return asked, list(weights)

    def rows_as_queries(self, rows: Features, n_span_tokens: int = 0) -> Features | None:
        """Stored rows' blocks as those of queries, to know how any row scores; None where that cannot be had.

        As queries that were asked about so many words of theirs; 0 is about all.
        """
        return None

    def score_components(self, asked: QueryFeatures, index: FeatureStore) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """What each block contributes to a score, as the index is scanned: the score is the sum of its parts.

        Empty for a method whose scores have no parts.
        """
        return iter(())

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """The score of every row for every query."""
        return assemble_scores(
            (sum(parts.values(), torch.zeros(())) for parts in self.score_components(asked, index)), len(index)
        )

    def token_gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R d"] | None:
        """The gradients whose cosines are the token scores; None where the method has none."""
        return None

    def token_scores(self, model: Model, batch: Batch, asked: QueryFeatures) -> Float[Tensor, "Q B R"] | None:
        """How much each learned token of these rows answers to each query; None where the method scores no words.

        RepT's token level (arXiv 2510.02334), as a mean, so that it does not grow with the answer: ⟨ĝ_query⟩_w · ĝ_row.
        """
        grads = None if asked.mean_token_gradient is None else self.token_gradients(model, batch)
        return None if grads is None else torch.einsum("qk,brk->qbr", asked.mean_token_gradient, normalize(grads).cpu())

    @property
    def pools_queries(self) -> bool:
        """Whether answers that the same rows taught are explained together."""
        return bool(getattr(self, "pool_queries", False))

    @property
    def scores_tokens(self) -> bool:
        """Whether it scores the words of a row."""
        return (
            type(self).token_scores is not Method.token_scores
            or type(self).token_gradients is not Method.token_gradients
        )

    def index_notes(self, model: Model) -> dict[str, Any]:
        """What an index must remember of the model to score by, or to say, beside the options; for the manifest."""
        return {}

    def spec(self) -> dict[str, Any]:
        """Name and options, for the manifest."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}

    def written(self) -> str:
        """As the command line has it: `lesson`, or `lesson:sketch_dim=64` where options are not the defaults."""
        other = [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.name}:{','.join(other)}" if other else self.name


@dataclass(frozen=True)
class CosineMethod(Method):
    """One that stores a single block, and scores by the cosine of query and row in it."""

    def rows_as_queries(self, rows: Features, n_span_tokens: int = 0) -> Features:
        """As they are: a cosine asks for directions alone."""
        return rows

    def score_components(self, asked: QueryFeatures, index: FeatureStore) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """The cosine."""
        (name,) = asked.features
        alike = cosine_scorer(asked, index, name)
        for rows in index.scan([name]):
            yield {name: alike(rows[name])}


@dataclass(frozen=True)
class WeightMethod(Method):
    """One that compares gradients of the weights that learned; they are stored as `p128_ℓ` for each block ℓ.

    Of each weight's gradient `project` numbers are kept, by a sketch that `seed` fixes; 0: all of an adapter's.
    """

    project: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.project < 0:
            raise OptionError(f"{self.name}: project is below 0", got=str(self.project), do="give 0 for all")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`p128_0` …, the same for all methods of this kind, so that an index holds them once."""
        kind = seeded(f"p{self.project or ''}", self.seed)
        return tuple(f"{kind}_{at}" for at in range(depth))

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """The gradients of each block's weights, one after the other."""

        def sketched(weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Tensor:
            return self.kept(weight.name, compact_gradient(weight, x, delta))

        found = weight_gradients(model, batch, sketched, weights)
        return {
            **dict(zip(self.feature_names(model.depth), found.blocks(model.depth), strict=True)),
            "loss": found.loss,
        }

    def kept(self, name: str, gradient: Float[Tensor, "B d"]) -> Float[Tensor, "B k"]:
        """What is stored of the gradient of the weight of that name."""
        if not 0 < self.project < gradient.shape[1]:
            return gradient
        return fold(gradient, self.project, f"{self.seed} {name}")

    def index_notes(self, model: Model) -> dict[str, Any]:
        """Which weights these are: a score needs their sizes."""
        return find_trained_weights(model).notes()

    def pieces(self, index: FeatureStore) -> list[list[tuple[int, int]]]:
        """For each block its weights: how many numbers are stored of each, and how many it has."""
        sizes = TrainedWeights.from_json(index.manifest["settings"]["notes"]["weights"]).sizes
        return [[(min(self.project or size, size), size) for size in block] for block in sizes]


def layer_number(layer: Layer, depth: int, curve: LayerSimilarity | None) -> int:
    """A layer as a number 0 … L."""
    text = str(layer).strip()
    if text == "auto":
        if curve is None:
            raise OptionError(
                "`auto` needs the layer curve", got="auto", do="give a layer's number, or a share such as 85%"
            )
        return resolve_layer(curve.transition_layer, depth)
    share = text.removesuffix("%")
    try:
        value = float(share) / 100 * depth if text.endswith("%") else int(text)
    except ValueError:
        raise OptionError(
            "no such layer",
            got=text,
            do=f"choose 0 to {depth}, -1 for the last, auto, or a share such as 85%",
        ) from None
    if text.endswith("%") and not 0 <= value <= depth:
        raise OptionError("no such layer", got=text, do="choose 0% to 100%")
    return resolve_layer(round(value), depth)


def feature_name(kind: str, layer: int, depth: int, *, base: bool = False) -> str:
    """A block's name: `h_15`, `g_L` (after the final norm), `grads_27_base` (of the untuned model)."""
    at = "L" if layer == depth else str(layer)
    return f"{kind}_{at}_base" if base else f"{kind}_{at}"


def seeded(name: str, seed: int) -> str:
    """A block's name with the seed of its random projection: `p128`, or `p128s1` for a seed that is not 0."""
    return f"{name}s{seed}" if seed else name


def _figure(value: Any) -> str:
    """An option's value within a column's name, where a point would begin a nested field: `0p2` for 0.2."""
    return str(value).removesuffix(".0").replace(".", "p").replace("-", "m")


def cosine_scorer(
    asked: QueryFeatures, index: FeatureStore, name: str, *, centred: bool = False
) -> Callable[[Tensor], Tensor]:
    """From scanned rows (B, d) of one block to each query's cosine with each (Q, B); `centred`, less all rows' mean."""
    query = normalize(torch.as_tensor(asked.features[name]))
    if not centred:
        return lambda rows: query @ rows.T
    mean = index.mean(name)
    query = normalize(query - mean)
    return lambda rows: query @ normalize(rows - mean).T


def stored_vectors(index: FeatureStore, name: str) -> Iterator[Float[Tensor, "B d"]]:
    """A block's vectors as long as they were, some rows at a time."""
    for rows in index.scan([name, f"{name}_norm"]):
        yield rows[name] * rows[f"{name}_norm"][:, None]


def inner_products(index: FeatureStore, name: str, queries: Float[Tensor, "Q d"]) -> Float[Tensor, "Q N"]:
    """The inner product of each query with each row in one block."""
    return assemble_scores((queries @ rows.T for rows in stored_vectors(index, name)), len(index))


def assemble_scores(pieces: Iterable[Float[Tensor, "Q B"]], count: int) -> Float[Tensor, "Q N"]:
    """The scores of some rows after the others as those of all `count`, which no second copy is made of."""
    made, at = torch.empty(0, count), 0
    for piece in pieces:
        if not at:
            made = torch.empty(len(piece), count)
        made[:, at : at + piece.shape[1]] = piece
        at += piece.shape[1]
    return made


def top_positions(scores: Float[Tensor, " N"], count: int) -> Int[Tensor, " K"]:
    """The places of the `count` highest scores, the best first; tied rows in the order of the data, NaN last.

    `torch.topk` does not say which of the rows that tie at its edge it takes.
    """
    scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if count < 1:
        return torch.empty(0, dtype=torch.long)
    places = (scores >= scores.topk(min(count, len(scores))).values[-1]).nonzero()[:, 0]
    return places[scores[places].argsort(descending=True, stable=True)][:count]


def row_text(row: Example, what: Literal["both", "prompt", "answer"] = "both") -> str:
    """What was said in a row, for the methods that read words: all but the system prompt, or one side of it."""
    said = {"both": row.messages, "prompt": row.messages[:-1], "answer": row.messages[-1:]}[what]
    return " ".join(str(message["content"]) for message in said if message["role"] != "system")


def stack_features(rows: Sequence[Features], names: Iterable[str]) -> Features:
    """The blocks of single rows as those of all: stacked, or where a row has a vector a token, listed."""
    made: Features = {}
    for name in names:
        parts = [torch.as_tensor(row[name]) for row in rows]
        made[name] = torch.stack(parts) if parts[0].ndim < 2 else parts
    return made


def normalize(vectors: Float[Tensor, "*N d"]) -> Float[Tensor, "*N d"]:
    """Vectors at length 1; a zero stays zero."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-30)


def first_weighted(weights: Float[Tensor, "B R"] | None, batch: Batch) -> torch.Tensor:
    """The first place that counts, for each row: the answer's, or where `weights` begin."""
    if weights is None:
        return batch.n_prompt_loss.cpu()
    return (weights > 0).int().argmax(1).cpu()
