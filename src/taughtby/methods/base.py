"""The base classes of attribution methods: frozen dataclasses whose fields are the method's options."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from taughtby.capture.budget import token_budget
from taughtby.capture.layer_similarity import LayerSimilarity
from taughtby.capture.weight_gradients import find_trained_weights
from taughtby.data.batching import Batch
from taughtby.data.example import Example
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.layers import layer_number
from taughtby.methods.scoring import assemble_scores, cosine_scorer, normalize
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Features = dict[str, torch.Tensor | list[torch.Tensor]]  # by name: (B, d), (B,), or one (n, k) for each row


@dataclass(frozen=True)
class QueryFeatures:
    """Q queries as a method compares them with rows.

    Attributes:
        prompts: the prompts.
        responses: the responses.
        features: the method's features of the queries.
        mean_token_gradient: Σ_t w_t ĝ_t with Σ w = 1, for methods with `token_gradients`.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    features: Features
    mean_token_gradient: Float[Tensor, "Q d"] | None = None


@dataclass(frozen=True)
class Method:
    """Base class of methods that read texts only, and of the two base classes below.

    A method overrides `scores`, or `score_components` if its score is a sum. One that stores features of the texts
    overrides `feature_names` and `text_features`; one that scores tokens sets `scores_tokens` and overrides
    `text_token_scores`.

    Attributes:
        name: the method's name on the command line and in manifests.
        reads_model: whether features come from the model.
        scores_tokens: whether it scores the tokens of a row.
        has_components: whether `score_components` yields the summands of a score.
        supports_significance: whether rows can be queries (`rows_as_queries`), which p-values need.
    """

    name: ClassVar[str]
    reads_model: ClassVar[bool] = False
    scores_tokens: ClassVar[bool] = False
    has_components: ClassVar[bool] = False
    supports_significance: ClassVar[bool] = False

    @property
    def pools_queries(self) -> bool:
        """Whether the queries of an incident are scored together."""
        return False

    def resolve_layers(self, depth: int, similarity: LayerSimilarity | None) -> Self:
        """Return the method with every layer option as a number."""
        options = [field.name for field in fields(self) if "Layer" in str(field.type)]
        return replace(self, **{name: layer_number(getattr(self, name), depth, similarity) for name in options})

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return the names of the features that the method stores and reads, for a model of `depth` blocks.

        Two methods share a feature if its name is the same, so a name contains every option that changes the numbers;
        options at their defaults may be left out.
        """
        return ()

    def option_suffix(self, **labels: str) -> str:
        """Return a suffix for a feature's name with the options that are not at their defaults, such as `_sketch64`.

        Args:
            labels: option names and their labels in the suffix.
        """
        options = [(labels[f.name], getattr(self, f.name), f.default) for f in fields(self) if f.name in labels]
        return "".join(f"_{label}{_number(value)}" for label, value, default in options if value != default)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return the features of each row that come from the model; none for a method that reads texts only."""
        return {}

    def needs_prompts_only(self, depth: int) -> bool:
        """Whether `features` runs no response tokens, so that rows are batched by the lengths of their prompts."""
        return not self.reads_model

    def backward_blocks(self, depth: int) -> int:
        """Return the number of blocks whose activations the backward pass of `features` needs."""
        return 0

    def token_budget(self, model: Model, *, per_token: bool = False) -> int:
        """Return how many padded tokens a batch may have; arguments as in `taughtby.capture.budget`."""
        return token_budget(model, self.backward_blocks(model.depth), per_token=per_token)

    def text_features(self, rows: Sequence[Example]) -> Features:
        """Return the features of each row that come from its text."""
        return {}

    def text_token_scores(
        self, queries: QueryFeatures, index: FeatureStore, rows: Sequence[Example], tokens: Sequence[Sequence[str]]
    ) -> Float[Tensor, "Q B R"]:
        """Return how well each response token matches each query, for a method that scores tokens and reads texts only.

        Args:
            queries: the queries.
            index: all rows.
            rows: the rows to explain.
            tokens: the texts of their response tokens; scores of shorter responses are padded.
        """
        raise NotImplementedError

    def rows_as_queries(self, rows: Features, profile: Float[Tensor, " m"] | None = None) -> Features | None:
        """Return the features of indexed rows as those of queries, or None if they cannot be queries.

        Args:
            rows: features as stored.
            profile: the weights of a query's tokens, highest first, for methods that weight tokens; None for weights
                of the row's own.
        """
        return None

    def score_components(
        self, queries: QueryFeatures, index: FeatureStore
    ) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """Yield the summands of the scores by feature, some rows at a time."""
        return iter(())

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Return the score of every row for every query; higher is more responsible."""
        sums = (sum(parts.values(), torch.zeros(())) for parts in self.score_components(queries, index))
        return assemble_scores(sums, len(index))

    def index_notes(self, model: Model) -> dict[str, Any]:
        """Return what the manifest records about the model besides the options."""
        return {}

    def spec(self) -> dict[str, Any]:
        """Return name and options, as in the manifest."""
        return {"name": self.name} | {field.name: getattr(self, field.name) for field in fields(self)}

    def spec_string(self) -> str:
        """Return the method as on the command line: `lesson`, or `lesson:sketch_dim=64` with other options."""
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        options = [f"{name}={value}" for name, value, default in values if value != default]
        return f"{self.name}:{','.join(options)}" if options else self.name


@dataclass(frozen=True)
class StateMethod(Method):
    """Base of methods that read hidden states or their gradients.

    A method overrides `feature_names` and `features`. One that scores tokens sets `scores_tokens` and overrides
    `token_gradients` or `token_scores`.
    """

    reads_model: ClassVar[bool] = True

    def needs_prompts_only(self, depth: int) -> bool:
        """Whether `features` runs no response tokens."""
        return False

    def backward_blocks(self, depth: int) -> int:
        """Return the number of blocks whose activations the backward pass needs, by default all."""
        return depth

    @abstractmethod
    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return the features of each row, and statistics such as its loss.

        Args:
            model: the model.
            batch: rows, or queries.
            weights: for queries, the weight of each response token; None for rows.
        """

    @property
    def compares_with_base(self) -> bool:
        """Whether the method reads the base model too."""
        return type(self).logprob_gain is not StateMethod.logprob_gain

    def logprob_gain(self, model: Model, batch: Batch) -> Float[Tensor, "B R"] | None:
        """Return by how many nats (≥ 0) fine-tuning raised each token's log probability; None if it is not used.

        These are the token weights of a query without a span.
        """
        return None

    def reweight_queries(
        self, queries: QueryFeatures, weights: Sequence[Float[Tensor, " n"]]
    ) -> tuple[QueryFeatures, list[Float[Tensor, " n"]]]:
        """Return queries and token weights, adjusted for what the queries of an incident have in common."""
        return queries, list(weights)

    def token_gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R d"] | None:
        """Return the gradients whose cosines are the token scores; None if the method has none."""
        return None

    def token_scores(self, model: Model, batch: Batch, queries: QueryFeatures) -> Float[Tensor, "Q B R"] | None:
        """Return how well each token with a loss matches each query; None if the method scores no tokens.

        By default RepT's token score (arXiv 2510.02334) as a mean over the query, so that it does not grow with the
        response: Σ_t w_t ĝ_t · ĝ'_u.
        """
        if queries.mean_token_gradient is None or (gradients := self.token_gradients(model, batch)) is None:
            return None
        return torch.einsum("qk,brk->qbr", queries.mean_token_gradient, normalize(gradients).cpu())


@dataclass(frozen=True)
class WeightMethod(Method):
    """Base of methods that read gradients of the trained weights. A method overrides `feature_names` and `features`."""

    reads_model: ClassVar[bool] = True

    @abstractmethod
    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return the features of each row and its loss; arguments as in `StateMethod`."""

    def backward_blocks(self, depth: int) -> int:
        """Return the number of blocks whose activations the backward pass needs: all."""
        return depth

    def index_notes(self, model: Model) -> dict[str, Any]:
        """Return the trained weights, whose sizes the scores need."""
        return find_trained_weights(model).notes()


@dataclass(frozen=True)
class CosineMethod(Method):
    """A mixin for methods with a single feature whose score is the cosine of query and row.

    Attributes:
        centred: whether the mean of all rows is subtracted from queries and rows first.
    """

    centred: ClassVar[bool] = False
    has_components: ClassVar[bool] = True
    supports_significance: ClassVar[bool] = True

    def rows_as_queries(self, rows: Features, profile: Float[Tensor, " m"] | None = None) -> Features:
        """Return the features unchanged, since a cosine uses directions only."""
        return rows

    def score_components(
        self, queries: QueryFeatures, index: FeatureStore
    ) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """Yield the cosine."""
        (name,) = queries.features
        cosine = cosine_scorer(torch.as_tensor(queries.features[name]), index, name, centred=self.centred)
        for rows in index.scan([name]):
            yield {name: cosine(rows[name])}


def stack_features(rows: Sequence[Features], names: Iterable[str]) -> Features:
    """Combine the features of single rows: stacked, or a list where a row has a vector per token."""
    features: Features = {}
    for name in names:
        parts = [torch.as_tensor(row[name]) for row in rows]
        features[name] = torch.stack(parts) if parts[0].ndim < 2 else parts
    return features


def _number(value: Any) -> str:
    """Format an option's value for a column name, in which a point would start a nested field: `0p2` for 0.2."""
    return str(value).removesuffix(".0").replace(".", "p").replace("-", "m")
