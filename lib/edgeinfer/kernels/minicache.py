"""MiniCache: two neighbouring layers share one direction per token, each keeps its own length, the most different stay.

Knows vectors and pairs of layers, not how much a model can bear (see the chapter). S tokens, D channels of a head; each
head's vector of each token is merged on its own. Source: minicache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.kv_quantize import finite_cache

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from edgeinfer.models.config import Config


@dataclass(frozen=True)
class MergedLayers:
    """What stays of the keys (or values) of two layers.

    Attributes:
        direction: (..., S, D) float16, one unit vector for both layers.
        lengths: (2, ..., S) float16, of each layer's own vectors.
        kept: (..., K) uint32, tokens that are not merged.
        exact: (2, ..., K, D) float16, their vectors in both layers.
    """

    direction: NDArray[np.float16]
    lengths: NDArray[np.float16]
    kept: NDArray[np.uint32]
    exact: NDArray[np.float16]

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored; a kept token's direction is stored too."""
        return self.direction.nbytes + self.lengths.nbytes + self.kept.nbytes + self.exact.nbytes

    def restore(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The vectors of the lower and of the upper layer, (..., S, D) float32."""
        both = self.direction.astype(np.float32) * self.lengths.astype(np.float32)[..., None]
        index = np.broadcast_to(self.kept[..., None].astype(np.int64), self.exact.shape)
        np.put_along_axis(both, index, self.exact.astype(np.float32), -2)
        return both[0], both[1]


def _unit(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    length = np.linalg.norm(x.astype(np.float64), axis=-1)
    return x / np.where(length > 0, length, 1)[..., None], length


def cosine_similarity(lower: NDArray[np.float32], upper: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of the angle between the vectors of two layers: (..., S, D) twice -> (..., S); 0 where one is zero."""
    return np.clip((_unit(lower)[0] * _unit(upper)[0]).sum(-1), -1, 1)


def interpolate(lower: NDArray[np.float32], upper: NDArray[np.float32], t: float = 0.5) -> NDArray[np.float64]:
    """Spherical interpolation between the directions of two layers.

    Args:
        lower, upper: (..., S, D) float32.
        t: 0 gives the direction of `lower`, 1 that of `upper`.

    Returns:
        (..., S, D) float64 of length 1 (0 where both vectors are 0). Opposite vectors have no way between them that is
        shorter than others: they get the direction of the nearer end.

    Raises:
        ValueError: "t must lie between 0 and 1, got 1.5."
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie between 0 and 1, got {t}.")
    (a, length_a), (b, length_b) = _unit(lower), _unit(upper)
    a, b = np.where(length_a[..., None] > 0, a, b), np.where(length_b[..., None] > 0, b, a)
    angle = np.arccos(np.clip((a * b).sum(-1, keepdims=True), -1, 1))
    sine = np.sin(angle)
    usable = sine > 1e-6
    safe = np.where(usable, sine, 1)
    mixed = np.sin((1 - t) * angle) / safe * a + np.sin(t * angle) / safe * b
    return _unit(np.where(usable, mixed, a if t <= 0.5 else b))[0]


def merge_layers(
    lower: NDArray[np.float32], upper: NDArray[np.float32], keep: float = 0.05, t: float = 0.5
) -> MergedLayers:
    """Merge the keys, or the values, of two neighbouring layers.

    Args:
        lower, upper: (..., S, D) float32, the same tokens in both layers.
        keep: share of the tokens (0 to 1, rounded up, per head) that stay unmerged: those of the largest angle.
        t: where the shared direction lies between the two.

    Returns:
        The merged form; `restore()` gives both layers back, with their lengths as they were.

    Raises:
        ValueError: "the two layers must have the same shape, got (4, 9, 32) and (4, 8, 32)." and the like.

    Source: minicache.
    """
    lower, upper = finite_cache(lower, "lower"), finite_cache(upper, "upper")
    if lower.shape != upper.shape:
        raise ValueError(f"the two layers must have the same shape, got {lower.shape} and {upper.shape}.")
    if not 0 <= keep <= 1:
        raise ValueError(f"keep must be a share between 0 and 1, got {keep}.")
    tokens = lower.shape[-2]
    count = int(np.ceil(keep * tokens - 1e-9))
    kept = np.argsort(cosine_similarity(lower, upper), -1, kind="stable")[..., :count]
    exact = np.stack([np.take_along_axis(x, kept[..., None], -2) for x in (lower, upper)])
    lengths = np.stack([np.linalg.norm(x, axis=-1) for x in (lower, upper)])
    return MergedLayers(
        interpolate(lower, upper, t).astype(np.float16),
        lengths.astype(np.float16),
        kept.astype(np.uint32),
        exact.astype(np.float16),
    )


class MergedCache:
    """A decoder's cache in which pairs of layers from `start` on are merged as soon as a step has passed all layers.

    Args:
        config, batch, dtype: as for every cache.
        start: first layer that may be merged; (start, start + 1), (start + 2, start + 3), ... are the pairs.
        keep: share of tokens that stay unmerged.
        t: where a shared direction lies.

    Example::

        model.cache_factory = MergedCache.factory(start=4, keep=0.05)

    Raises:
        ValueError: "start must be a layer from 0 to 8, got 9."
    """

    def __init__(
        self, config: Config, batch: int, dtype: torch.dtype, start: int = 0, keep: float = 0.05, t: float = 0.5
    ) -> None:
        layers = config.num_hidden_layers
        if not 0 <= start <= layers:
            raise ValueError(f"start must be a layer from 0 to {layers}, got {start}.")
        self.length = 0
        self.padding: Tensor | None = None
        self._options = (keep, t)
        self._pairs = [(i, i + 1) for i in range(start, layers - 1, 2)]
        self._new: dict[int, tuple[Any, Any]] = {}
        # per layer: alone, a list of (keys, values) float16; or in a pair, a list of merged (keys, values)
        self._alone: dict[int, list[Any]] = {i: [] for i in range(layers) if i not in sum(self._pairs, ())}
        self._merged: dict[tuple[int, int], list[tuple[MergedLayers, MergedLayers]]] = {p: [] for p in self._pairs}

    @classmethod
    def factory(cls, **options: Any) -> Callable[[Config, int, torch.dtype], MergedCache]:
        """A `cache_factory` with these options."""
        return lambda config, batch, dtype: cls(config, batch, dtype, **options)

    def _older(self, layer: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        if layer in self._alone:
            return [(k.astype(np.float32), v.astype(np.float32)) for k, v in self._alone[layer]]
        pair = next(p for p in self._pairs if layer in p)
        side = pair.index(layer)
        return [(k.restore()[side], v.restore()[side]) for k, v in self._merged[pair]]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take (B, H, T, D); return older tokens as they are remembered and these as they are."""
        import torch

        self._new[layer] = (keys.float().numpy(), values.float().numpy())
        older = self._older(layer)
        if not older:
            return keys, values
        parts = [torch.from_numpy(np.concatenate(side, 2)).to(keys.dtype) for side in zip(*older, strict=True)]
        return torch.cat([parts[0], keys], 2), torch.cat([parts[1], values], 2)

    def advance(self, count: int) -> None:
        """Merge the step's tokens, now that all layers have seen them.

        Raises:
            ValueError: "layers 4 and 5 are merged, but this step did not pass both; ..."
        """
        for layer, steps in self._alone.items():
            if layer in self._new:
                k, v = self._new[layer]
                steps.append((k.astype(np.float16), v.astype(np.float16)))
        for pair, merged in self._merged.items():
            if not all(layer in self._new for layer in pair):
                raise ValueError(
                    f"layers {pair[0]} and {pair[1]} are merged, but this step did not pass both; "
                    "run all layers or start merging above the exit."
                )
            lower, upper = (self._new[layer] for layer in pair)
            keys, values = (merge_layers(a, b, *self._options) for a, b in zip(lower, upper, strict=True))
            merged.append((keys, values))
        self._new.clear()
        self.length += count

    @property
    def nbytes(self) -> int:
        """Bytes kept, in float16."""
        alone = sum(k.nbytes + v.nbytes for steps in self._alone.values() for k, v in steps)
        return alone + sum(k.nbytes + v.nbytes for steps in self._merged.values() for k, v in steps)
