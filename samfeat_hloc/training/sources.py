"""Several sources of pairs as one, and batches made ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ..errors import SamfeatError
from .pairs import PairBatch, PairOptions, PairSource


class MixedSource:
    """Draws the source of each batch by weight."""

    def __init__(self, sources: Sequence[tuple[PairSource, float]]) -> None:
        """
        Arguments:
            sources: each with its weight; they need not add up to 1.

        Raises:
            SamfeatError: no sources, a negative weight, or all weights 0.
        """
        weights = torch.tensor([float(weight) for _, weight in sources], dtype=torch.float64)
        if not (
            len(weights) and bool((weights >= 0).all()) and 0 < float(weights.sum()) < torch.inf
        ):
            raise SamfeatError(
                f"the sources' weights {weights.tolist()}", "give at least one that is above 0"
            )
        self.sources = [source for source, _ in sources]
        self._below = (weights / weights.sum()).cumsum(0)

    @property
    def num_pairs(self) -> int:
        """Those of all sources."""
        return sum(source.num_pairs for source in self.sources)

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` pairs of one of the sources; see :class:`.pairs.PairSource`."""
        drawn = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
        chosen = int((drawn.cpu() >= self._below).sum())
        return self.sources[min(chosen, len(self.sources) - 1)].batch(count, options, generator)


def batches_ahead(
    source: PairSource,
    count: int,
    options: PairOptions,
    generators: Iterable[torch.Generator],
    *,
    ahead: int = 2,
) -> Iterator[PairBatch]:
    """One batch for each generator, in their order, while the next ``ahead`` are in the making.

    A batch depends on its generator's state alone, so these are the batches that
    ``source.batch`` gives; each generator has to be an object of its own. An error in a batch is
    raised when its turn comes. At most ``ahead + 1`` batches are held.
    """
    if ahead < 1:
        for generator in generators:
            yield source.batch(count, options, generator)
        return

    def made(generator: torch.Generator) -> tuple[PairBatch, torch.cuda.Event | None]:
        """A batch, on a GPU by a stream of its own, and what tells that it is there."""
        if generator.device.type != "cuda":
            return source.batch(count, options, generator), None
        with torch.cuda.stream(torch.cuda.Stream(generator.device)):
            return source.batch(
                count, options, generator
            ), torch.cuda.current_stream().record_event()

    coming: deque[Future[tuple[PairBatch, torch.cuda.Event | None]]] = deque()
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="batches")
    try:
        for generator in generators:
            coming.append(pool.submit(made, generator))
            if len(coming) > ahead:
                yield _arrived(*coming.popleft().result())
        while coming:
            yield _arrived(*coming.popleft().result())
    finally:
        for future in coming:
            future.cancel()
        pool.shutdown(wait=True)


def _arrived(batch: PairBatch, event: torch.cuda.Event | None) -> PairBatch:
    """The batch, for the stream that takes it."""
    if event is not None:
        taking = torch.cuda.current_stream(batch.image0.device)
        taking.wait_event(event)
        for part in batch.tensors().values():
            part.record_stream(taking)  # its memory is not given away before
    return batch
