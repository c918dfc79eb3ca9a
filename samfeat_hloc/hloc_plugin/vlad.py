"""``extract_features.confs["samfeat_vlad"]``: retrieval with SAMFeat's features, within hloc.

hloc describes an image at a time, by a network that knows no other. VLAD needs a vocabulary, which
is learned from the database. So what is done for this configuration is done around hloc's own
extraction: it extracts the local features, or finds them extracted, and these are described.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..localization import global_descriptors
from .configurations import VLAD


def watch(module: ModuleType) -> None:
    """Have ``hloc.extract_features.main`` know the configuration."""
    main = module.main

    @functools.wraps(main)
    def watched(*args: Any, **named: Any) -> Any:
        given = inspect.signature(main).bind(*args, **named)
        given.apply_defaults()
        if given.arguments["conf"].get("model", {}).get("name") != VLAD:
            return main(*args, **named)
        return _describe(main, module.ImageDataset, **given.arguments)

    module.main = watched  # type: ignore[attr-defined]


def _describe(
    main: Callable[..., Path],
    image_dataset: Any,
    *,
    conf: dict[str, Any],
    image_dir: Path,
    export_dir: Path | None,
    as_half: bool,
    image_list: Path | str | Sequence[str] | None,
    feature_path: Path | None,
    overwrite: bool,
) -> Path:
    """As hloc's ``extract_features.main``. The vocabulary of an output that is there is kept."""
    output = Path(export_dir or ".") / f"{conf['output']}.h5"
    if feature_path is not None:
        output = Path(feature_path)
    folder = export_dir if export_dir is not None else output.parent
    local = main(conf["local"], image_dir, folder, as_half, image_list)
    names = image_dataset(image_dir, conf["preprocessing"], image_list).names
    words = None
    if output.exists() and not overwrite:
        words = global_descriptors.read_vocabulary(output)
    if words is None:
        database = [name for name in names if name.startswith(conf["model"]["database"])]
        words = global_descriptors.vocabulary_of(
            local, database or names, clusters=conf["model"]["clusters"]
        )
    return global_descriptors.with_vocabulary(local, names, output, words, overwrite=overwrite)
