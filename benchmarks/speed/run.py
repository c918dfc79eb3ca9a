"""How fast every stage is, beside hloc's, the release's extraction and other features.

    python benchmarks/speed/run.py [--dataset DIR --run OUTPUTS] [--output FILE]

Each row is measured in turns (ours, theirs, ours, ...), so that whatever else the machine does
weighs on all alike. What cannot be measured here is skipped, with the reason.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partialmethod
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pycolmap
import torch
import torch.nn.functional as F
import typer
from tqdm import tqdm

from samfeat_hloc.cli import run_program
from samfeat_hloc.colmap import triangulation
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation import speed
from samfeat_hloc.evaluation.random_features import write_random_features
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.evaluation.speed import Row, Times
from samfeat_hloc.feature.extraction import extract_batch
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.feature.presets import PRESETS
from samfeat_hloc.files.atomic import write_atomically
from samfeat_hloc.files.feature_readers import FeatureReader, MatchReader
from samfeat_hloc.files.images import read_image
from samfeat_hloc.files.pair_lists import pairs_text, read_pairs, unique_pairs
from samfeat_hloc.hloc_plugin import hloc_installed
from samfeat_hloc.localization import localize, matches
from samfeat_hloc.localization.inputs import LocalizationInputs
from samfeat_hloc.localization.matches import MatchConfig
from samfeat_hloc.maps import building
from samfeat_hloc.maps.localization import Localization
from samfeat_hloc.maps.localizer import Localizer
from samfeat_hloc.maps.sources import sources_in
from samfeat_hloc.pipelines import run
from samfeat_hloc.pipelines.run_options import RunOptions

NO_HLOC = {"hloc": "hloc is not installed"}
ROWS = ("matching", "verification", "localization", "localizer", "extraction", "run")
DIM = 128
MATCHED_IMAGES = 8


def main(
    dataset: Annotated[
        Path | None, typer.Option(help="Dataset in Aachen's layout, for all rows but matching.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Outputs of a finished native run on it.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint of --run; the shipped one by default.")
    ] = None,
    rows: Annotated[str, typer.Option(help="Rows to measure, separated by commas.")] = ",".join(
        ROWS
    ),
    repeats: Annotated[int, typer.Option(help="Repeats of each row but the whole run.")] = 5,
    run_repeats: Annotated[
        int, typer.Option(help="Repeats of the whole run, which takes minutes.")
    ] = 1,
    keypoints: Annotated[int, typer.Option(help="Keypoints of each image that is matched.")] = 4096,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch; its own number by default.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Preset of the whole run.")] = "samfeat_fast",
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the record as JSON to this file.")
    ] = None,
) -> None:
    """Measure, print and record."""
    logging.getLogger().setLevel(logging.ERROR)
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # type: ignore[method-assign,assignment]
    if threads is not None:
        torch.set_num_threads(threads)
    wanted = rows.split(",")
    if unknown := [name for name in wanted if name not in ROWS]:
        raise SamfeatError(f"--rows {unknown[0]}", f"choose from {', '.join(ROWS)}")
    before = speed.load()
    rates = speed.matrix_rates()
    found: list[Row] = []
    share: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        opened = None if dataset is None else AachenDataset.open(dataset)
        for name in wanted:
            if name == "matching":
                found += _matching(work, repeats, keypoints)
                share["matching"] = _matching_rate(found, keypoints) / rates["float32 onednn"]
            elif opened is None or (run is None and name in ("verification", "localization")):
                why = "needs --dataset" if opened is None else "needs --run"
                found.append(Row(name, "", 1, Times(), {"all": why}))
            elif name == "verification" and run is not None:
                found.append(_verification(opened, run, work, repeats))
            elif name == "localization" and run is not None:
                found.append(_localization(opened, run, work, repeats))
            elif name == "localizer" and run is not None:
                found.append(_localizer(opened, run, work, repeats, weights))
            elif name == "extraction":
                extraction, share["extraction"] = _extraction(opened, repeats, rates)
                found.append(extraction)
            elif name == "run" and dataset is not None:
                found.append(_whole_run(dataset, work, preset, run_repeats))
            typer.echo(f"\n{speed.table(found)}\n" if name == wanted[-1] else f"{name}: done")
    for kind, rate in rates.items():
        typer.echo(f"matrix product, {kind}: {rate / 1e9:.0f} GFLOP/s")
    for kind, value in share.items():
        typer.echo(f"{kind} reaches {value:.0%} of it")
    typer.echo(f"load of the machine before and after: {before} {speed.load()}")
    if output is not None:
        record = measurement(
            {"repeats": repeats, "run_repeats": run_repeats, "keypoints": keypoints,
             "threads": torch.get_num_threads(), "conf": preset, "dataset": dataset}
        )  # fmt: skip
        record |= {
            "rows": [row.as_json() for row in found],
            "matrix_operations_a_second": rates,
            "share_of_matrix_rate": share,
            "load": {"before": before, "after": speed.load()},
        }
        write_atomically(output, json.dumps(record, indent=1) + "\n")


def _matching(work: Path, repeats: int, keypoints: int) -> list[Row]:
    """All pairs of a few images of random descriptors: the kernel alone, and the stage."""
    names = [f"db/{i}.jpg" for i in range(MATCHED_IMAGES)]
    write_random_features(work / "random.h5", names, keypoints, DIM)
    listed = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs = work / "random-pairs.txt"
    pairs.write_text(pairs_text(listed))
    with matches.DescriptorCache(work / "random.h5", "cpu") as cache:
        tensors = {name: cache.get(name) for name in names}

    def kernel() -> None:
        pair = ((tensors[a], tensors[b]) for a, b in listed)
        assert len(list(matches.match_many(pair, MatchConfig()))) == len(listed)

    def stage() -> None:
        matches.main(pairs, work / "random.h5", work / "ours.h5", overwrite=True)

    kernels: dict[str, Callable[[], object]] = {"samfeat": kernel}
    stages: dict[str, Callable[[], object]] = {"samfeat": stage}
    if hloc_installed():
        import_module("hloc").logger.setLevel(logging.ERROR)
        matcher = import_module("hloc.matchers.nearest_neighbor").NearestNeighbor({})
        batched = {name: tensor[None].contiguous() for name, tensor in tensors.items()}

        def hloc_kernel() -> None:
            with torch.no_grad():
                for a, b in listed:
                    matcher({"descriptors0": batched[a], "descriptors1": batched[b]})

        def hloc_stage() -> None:
            module = import_module("hloc.match_features")
            (work / "hloc.h5").unlink(missing_ok=True)
            module.main(module.confs["NN-mutual"], pairs, work / "random.h5",
                        matches=work / "hloc.h5")  # fmt: skip

        kernels["hloc"], stages["hloc"] = hloc_kernel, hloc_stage
    skipped = {} if hloc_installed() else NO_HLOC
    size = f"{keypoints} x {DIM}"
    rows = [
        Row("matching, in memory", "pairs", len(listed), speed.in_turns(kernels, repeats),
            skipped=skipped, note=size),
        Row("matching, file to file", "pairs", len(listed), speed.in_turns(stages, repeats),
            skipped=skipped, note=size),
    ]  # fmt: skip
    if hloc_installed():
        with MatchReader(work / "ours.h5") as ours, MatchReader(work / "hloc.h5") as theirs:
            equal = [np.array_equal(ours.matches(*p), theirs.matches(*p)) for p in listed]
        typer.echo(f"matching: {sum(equal)} of {len(equal)} pairs have the very matches of hloc")
    return rows


def _matching_rate(rows: list[Row], keypoints: int) -> float:
    row = next(row for row in rows if row.name == "matching, in memory")
    return 2 * keypoints**2 * DIM * row.items / min(row.seconds["samfeat"])


def _verification(dataset: AachenDataset, run: Path, work: Path, repeats: int) -> Row:
    """Keypoints and matches into COLMAP's database, verified by the known poses."""
    pairs = next(run.glob("pairs-db-*.txt"))
    features, match_file = run / "features.h5", run / "matches-db.h5"
    reference = pycolmap.Reconstruction(str(dataset.reference_model))
    listed = unique_pairs(read_pairs(pairs))
    database = work / "database.db"

    def ours() -> None:
        database.unlink(missing_ok=True)
        with FeatureReader(features) as read, MatchReader(match_file) as matched:
            triangulation.fill_database(
                database, reference, listed, read, matched, triangulation.MappingConfig()
            )

    def hloc() -> None:
        module = import_module("hloc.triangulation")
        database.unlink(missing_ok=True)
        ids = module.create_db_from_model(reference, database)
        with pycolmap.Database.open(str(database)) as opened:
            module.import_features(ids, opened, features)
            module.import_matches(ids, opened, pairs, match_file)
        with pycolmap.Database.open(str(database)) as opened:
            module.geometric_verification(ids, reference, opened, features, pairs, match_file)

    return _beside_hloc("verification and import", "pairs", len(listed), ours, hloc, repeats)


def _localization(dataset: AachenDataset, run: Path, work: Path, repeats: int) -> Row:
    """Matches to poses: the whole stage, the map read from its files."""
    pairs = next(run.glob("pairs-query-*.txt"))
    listing = "".join(
        f"{q.name} {q.camera.model} {q.camera.width} {q.camera.height} "
        f"{' '.join(map(repr, q.camera.params))}\n"
        for q in dataset.queries
    )
    (work / "queries.txt").write_text(listing)
    files = (pairs, run / "features.h5", run / "matches-query.h5")

    def ours() -> None:
        inputs = LocalizationInputs(run / "map", dataset.queries, *files)
        localize.main(inputs, work / "poses-ours.txt", overwrite=True, workers=os.cpu_count() or 1)

    def hloc() -> None:
        import_module("hloc.localize_sfm").main(
            run / "map", work / "queries.txt", *files, work / "poses-hloc.txt",
        )  # fmt: skip

    return _beside_hloc("localization", "queries", len(dataset.queries), ours, hloc, repeats)


def _beside_hloc(
    name: str, unit: str, items: int, ours: Callable[[], object], theirs: Callable[[], object],
    repeats: int,
) -> Row:  # fmt: skip
    if not hloc_installed():
        taken = speed.in_turns({"samfeat": ours}, repeats)
        return Row(name, unit, items, taken, skipped=NO_HLOC)
    import_module("hloc").logger.setLevel(logging.ERROR)
    return Row(name, unit, items, speed.in_turns({"samfeat": ours, "hloc": theirs}, repeats))


def _localizer(
    dataset: AachenDataset, run: Path, work: Path, repeats: int, weights: Path | None
) -> Row:
    """Photos to poses, one after another, as a camera would ask: 640 pixels, 1,024 keypoints."""
    building.build(sources_in(run), work / "map")
    fast = PRESETS["samfeat_fast"]
    localizer = Localizer.load(work / "map", weights=weights, options=fast, num_retrieved=20)
    queries = dataset.queries[:: max(1, len(dataset.queries) // 10)]
    stages: dict[str, list[float]] = {}

    def ours() -> None:
        for query in queries:
            found = localizer.localize(dataset.image_dir / query.name, query.camera)
            for stage, seconds in found.seconds.items():
                stages.setdefault(stage, []).append(seconds)

    def several() -> None:
        photos = ((dataset.image_dir / query.name, query.camera, None) for query in queries)
        assert all(isinstance(one, Localization) for one in localizer.localize_many(photos))

    ways: dict[str, Callable[[], object]] = {"one by one": ours, "side by side": several}
    taken = speed.in_turns(ways, repeats)
    note = ", ".join(f"{name} {np.median(values):.3f}" for name, values in stages.items())
    typer.echo(f"localizer, median seconds: {note}")
    return Row("localizer, photo to pose", "queries", len(queries), taken, note=note)


def _extraction(dataset: AachenDataset, repeats: int, rates: dict[str, float]) -> tuple[Row, float]:
    """One photo at 1024 x 768, 4096 keypoints."""
    model = SAMFeat.from_pretrained(device="cpu")
    photo = read_image(dataset.image_dir / dataset.db_names[0])
    photo = np.ascontiguousarray(photo[: photo.shape[1] * 3 // 4])
    image = F.interpolate(
        torch.from_numpy(photo).permute(2, 0, 1)[None].float(), (768, 1024), mode="area"
    )[0]
    pixels = image.round().byte().permute(1, 2, 0).contiguous().numpy()
    options = PRESETS["samfeat_aachen"]
    # The release's network has edge attention, whatever the shipped weights have.
    plain = SAMFeat(edge_attention=True).eval().requires_grad_(False)
    plain.load_state_dict(model.state_dict(), strict=False)
    ways: dict[str, Callable[[], object]] = {
        "samfeat": lambda: extract_batch(model, [pixels], options),
        "samfeat, float32": lambda: extract_batch(
            model, [pixels], ExtractOptions(**{**options.asdict(), "precision": "float32"})
        ),
        "release's way": lambda: release_predict(plain, pixels),
    }
    skipped = {"R2D2": "not installed"}
    try:
        aliked = import_module("kornia.feature").ALIKED(model_name="aliked-n16").eval()
        tensor = image[None] / 255

        def run_aliked() -> None:
            with torch.inference_mode():
                aliked(tensor)

        run_aliked()
        ways["ALIKED-n16 (kornia)"] = run_aliked
    except Exception as error:  # kornia raises whatever an unknown argument or model does
        skipped["ALIKED-n16 (kornia)"] = " ".join(str(error).split())[:80] or "not installed"
    taken = speed.in_turns(ways, repeats)
    cost = speed.forward_cost(model, torch.zeros(1, 3, 768, 1024))
    typer.echo(
        f"network at 1024 x 768: {cost.operations / 1e9:.0f} GFLOP, {cost.bytes_moved / 2**30:.2f} "
        f"GB moved in float32, {cost.intensity:.0f} operations a byte"
    )
    rate = rates["bfloat16"] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else rates["float32"]
    # Extraction describes keypoints alone: less than the whole forward pass.
    done = speed.operations_of(ways["samfeat"])
    typer.echo(f"extraction: {done / 1e9:.0f} GFLOP")
    share = done / min(taken.seconds["samfeat"]) / rate
    return Row("extraction, 1024 x 768", "images", 1, taken, skipped=skipped), share


def release_predict(model: SAMFeat, image: np.ndarray) -> dict[str, np.ndarray]:
    """Extraction as the public release goes about it, plainly: float32, suppression in a loop.

    The reference for speed alone; `ExtractOptions(official=True)` gives the release's results.
    ``model`` has edge attention, as the release's has, and parameters without gradients.
    """
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    # Gradients stay enabled: without them the network takes its own short cuts.
    with torch.enable_grad():
        maps = model(x)
        edges = F.interpolate(maps.edges, x.shape[-2:], mode="bilinear", align_corners=False)
        scores = torch.sigmoid(maps.keypoint_logits + edges)[0, 0].numpy()
    threshold, radius, border = 0.9, 4, 4
    y, x_ = np.nonzero(scores >= threshold)
    order = np.argsort(-scores[y, x_])
    free = np.ones((scores.shape[0] + 2 * radius, scores.shape[1] + 2 * radius), dtype=bool)
    kept = []
    for row, column in zip(y[order], x_[order], strict=True):
        if not free[row + radius, column + radius]:
            continue
        free[row : row + 2 * radius + 1, column : column + 2 * radius + 1] = False
        if border <= row < scores.shape[0] - border and border <= column < scores.shape[1] - border:
            kept.append((column, row))
    keypoints = torch.tensor(kept, dtype=torch.float32).reshape(-1, 2)
    grid = 2 * keypoints / torch.tensor([x.shape[-1] - 1, x.shape[-2] - 1]) - 1
    found = F.grid_sample(maps.descriptors, grid[None, None], align_corners=False)[0, :, 0]
    weight = F.grid_sample(maps.attention, grid[None, None], align_corners=False)[0, :, 0]
    descriptors = F.normalize(found, dim=0) * weight
    return {"keypoints": keypoints.numpy(), "descriptors": descriptors.numpy()}


def _whole_run(dataset: Path, work: Path, preset: str, repeats: int) -> Row:
    """Photos to a submission, natively and by hloc's stages."""
    engines = ["native", *(["hloc"] if hloc_installed() else [])]
    ways: dict[str, Callable[[], object]] = {}
    for engine in engines:
        options = RunOptions(engine=engine, preset=preset, workers=os.cpu_count() or 1)
        outputs = work / f"run-{engine}"

        def go(outputs: Path = outputs, options: Any = options) -> None:
            shutil.rmtree(outputs, ignore_errors=True)
            done = run.run(dataset, outputs, options)
            typer.echo(f"{options.engine}\n{done.summary.table()}")
            if done.evaluation is not None:
                typer.echo(done.evaluation.table())

        ways["samfeat" if engine == "native" else engine] = go
    taken = speed.in_turns(ways, repeats, warm_up=False)
    skipped = {} if hloc_installed() else NO_HLOC
    return Row(f"whole run, {preset}", "runs", 1, taken, skipped=skipped)


if __name__ == "__main__":
    run_program(main)
