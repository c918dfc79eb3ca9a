"""Who does the stages of a run: this package, or hloc; both leave the same files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..feature.extraction import extract_batch
from ..feature.options import ExtractOptions
from ..files.masks import Masks
from ..hloc_plugin.calls import check_installed
from ..hloc_plugin.engine import HlocEngine
from ..localization import features, localize, mapping, matches, pairs
from ..localization.features import Extract
from ..localization.inputs import LocalizationInputs, MappingInputs
from ..localization.matches import MatchConfig
from ..localization.result import LocalizationResult
from ..parallel.cluster import Cluster


class Engine(Protocol):
    """The stages. Each writes `output`, or leaves it when it is there and made so already.

    Raises:
        SamfeatError: an input that is missing or damaged, or an output that was created
            with other settings.
    """

    @property
    def side_by_side(self) -> bool:
        """Whether two stages may run at a time."""
        ...

    def features(
        self, image_dir: Path, names: Sequence[str], output: Path, *, model: Any,
        options: ExtractOptions,
    ) -> Path:  # fmt: skip
        """Extract local features; see :func:`.features.main`."""
        ...

    def pairs_from_covisibility(self, model: Path, output: Path, *, num_matched: int) -> Path:
        """Pair images of a COLMAP model that see the same points."""
        ...

    def pairs_from_retrieval(
        self, descriptors: Path, query_names: Sequence[str], db_names: Sequence[str],
        output: Path, *, num_matched: int,
    ) -> Path:  # fmt: skip
        """Pair queries with the database images of most similar global descriptors."""
        ...

    def matches(
        self, pairs: Path, features: Path, output: Path, *, config: MatchConfig | None = None
    ) -> Path:
        """Match the pairs; see :func:`.matches.main`."""
        ...

    def mapping(self, inputs: MappingInputs, output: Path) -> Path:
        """Triangulate a map in known poses; see :func:`.mapping.main`."""
        ...

    def localize(
        self, inputs: LocalizationInputs, output: Path, *, max_error: float
    ) -> LocalizationResult:
        """Estimate the poses of the queries; see :func:`.localize.main`."""
        ...


@dataclass(frozen=True)
class NativeEngine:
    """The stages of this package.

    workers: threads of stages that take them.
    storage: how descriptors are kept, see `features`.
    extract: what turns images into features.
    overwrite: do every stage again.
    cluster: where to extract, match and localize; None for here.
    device: of matching; None for a GPU where there is one.
    masks: of the images, see `features`.
    """

    workers: int = 2
    storage: str = "half"
    extract: Extract = extract_batch
    overwrite: bool = False
    cluster: Cluster | None = None
    device: str | None = None
    masks: Masks | None = None
    side_by_side: bool = True

    def features(
        self, image_dir: Path, names: Sequence[str], output: Path, *, model: Any,
        options: ExtractOptions,
    ) -> Path:  # fmt: skip
        return features.main(
            image_dir, names, output, model=model, options=options, workers=self.workers,
            storage=self.storage, extract=self.extract, overwrite=self.overwrite,
            cluster=self.cluster, masks=self.masks,
        )  # fmt: skip

    def pairs_from_covisibility(self, model: Path, output: Path, *, num_matched: int) -> Path:
        return pairs.from_covisibility(
            model, output, num_matched=num_matched, overwrite=self.overwrite
        )

    def pairs_from_retrieval(
        self, descriptors: Path, query_names: Sequence[str], db_names: Sequence[str],
        output: Path, *, num_matched: int,
    ) -> Path:  # fmt: skip
        return pairs.from_retrieval(
            descriptors, query_names, db_names, output,
            num_matched=num_matched, overwrite=self.overwrite,
        )  # fmt: skip

    def matches(
        self, pairs: Path, features: Path, output: Path, *, config: MatchConfig | None = None
    ) -> Path:
        return matches.main(
            pairs, features, output, config=config, overwrite=self.overwrite,
            cluster=self.cluster, device=self.device,
        )  # fmt: skip

    def mapping(self, inputs: MappingInputs, output: Path) -> Path:
        return mapping.main(inputs, output, overwrite=self.overwrite)

    def localize(
        self, inputs: LocalizationInputs, output: Path, *, max_error: float
    ) -> LocalizationResult:
        return localize.main(
            inputs, output, max_error=max_error, overwrite=self.overwrite, workers=self.workers,
            cluster=self.cluster,
        )  # fmt: skip


def hloc_engine(*, overwrite: bool = False) -> Engine:
    """hloc's stages; a SamfeatError that says how to install hloc where it is not."""
    check_installed()
    return HlocEngine(overwrite=overwrite)
