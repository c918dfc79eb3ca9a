"""The network against the public release's outputs, and its checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature import checkpoints, levels, strips
from samfeat_hloc.feature.detection import sample
from samfeat_hloc.feature.edge_attention import PixelAttention
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.files.provenance import file_sha256


@pytest.fixture(scope="module")
def reference(shared: Path) -> Path:
    return shared / "reference" / "samfeat_official"


@pytest.fixture(scope="module")
def release(reference: Path) -> SAMFeat:
    return SAMFeat.from_pretrained(reference / "state_dict.pt", official=True, device="cpu")


def test_maps_equal_the_releases(release: SAMFeat, reference: Path) -> None:
    image = np.array(Image.open(reference / "image.png"))
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    with torch.inference_mode():
        maps = release(batch)
    expected = np.load(reference / "outputs.npz")
    found = {
        "heatmap": maps.keypoint_logits,
        "descriptor": maps.descriptors[:, :, ::4, ::4],
        "attention": maps.attention,
        "distill": maps.distillation[:, ::8],
        "edge": maps.edges,
    }
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), expected[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("prefix", "height", "width"), [("", 240, 320), ("odd_", 233, 310)])
def test_extraction_equals_the_releases(
    release: SAMFeat, reference: Path, prefix: str, height: int, width: int
) -> None:
    image = np.array(Image.open(reference / "image.png"))[:height, :width]
    found = release.extract(image, official=True)
    expected = np.load(reference / "outputs.npz")
    np.testing.assert_allclose(found["keypoints"], expected[prefix + "keypoints"], atol=1e-4)
    np.testing.assert_allclose(found["keypoint_scores"], expected[prefix + "scores"], atol=1e-4)
    descriptors = found["descriptors"].numpy().T[:200]
    np.testing.assert_allclose(descriptors, expected[prefix + "descriptors"], atol=1e-4)


def test_release_names_its_digest_and_what_it_does_not_use(
    reference: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.read_release(reference / "state_dict.pt")
    digest = file_sha256(reference / "state_dict.pt")
    assert digest in caplog.text
    assert "conv_det.weight" in caplog.text
    with refused("state_dict.pt", "SHA-256"):
        checkpoints.read_release(reference / "state_dict.pt", sha256="0" * 64)


def test_release_file_is_refused_unless_asked_for(reference: Path) -> None:
    with refused("state_dict.pt", mend="official=True"):
        SAMFeat.from_pretrained(reference / "state_dict.pt")


class Code:
    """Unpickled carelessly, this would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code of a checkpoint ran')",))


def test_code_in_a_release_file_never_runs(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"conv1a.weight": Code()}, path)
    with refused(path, "Python objects"):
        SAMFeat.from_pretrained(path, official=True)
    path.write_bytes(pickle.dumps(Code()))
    with refused(path, "Python objects"):
        SAMFeat.from_pretrained(path, official=True)


def test_checkpoint_keeps_weights_and_metadata(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SAMFeat()
    path = tmp_path / "weights.safetensors"
    checkpoints.write_checkpoint(
        path, model.state_dict(), model.config, {"teacher": "none", "steps": 3}, dtype=torch.float32
    )
    loaded = SAMFeat.from_pretrained(path, device="cpu")
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert loaded.metadata["teacher"] == "none"
    assert loaded.metadata["steps"] == 3
    assert "date" in loaded.metadata
    assert loaded.weights_sha256 == file_sha256(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_network_without_edge_attention(tmp_path: Path) -> None:
    model = SAMFeat(edge_attention=False)
    path = tmp_path / "weights.safetensors"
    checkpoints.write_checkpoint(path, model.state_dict(), model.config, {})
    assert SAMFeat.from_pretrained(path).edge_attention is None


def test_attention_from_pixel_to_pixel_is_the_formula() -> None:
    torch.manual_seed(0)
    attend = PixelAttention(6)
    features, edges = torch.randn(2, 6, 8, 12), torch.rand(2, 1, 8, 12)
    found = attend(features, edges)
    coarse = torch.nn.functional.avg_pool2d(features * edges, 2)
    expected = torch.zeros(2, 6, 4, 6)
    for b in range(2):
        at = [coarse[b, :, i, j] for i in range(4) for j in range(6)]
        q, k, v = (
            [conv.weight[:, :, 0, 0] @ x + conv.bias for x in at]
            for conv in (attend.query, attend.key, attend.value)
        )
        for n, one in enumerate(q):
            weights = torch.softmax(torch.stack([one @ other for other in k]) / 6**0.5, dim=0)
            expected[b, :, n // 6, n % 6] = sum(w * x for w, x in zip(weights, v, strict=True))
    larger = torch.nn.functional.interpolate(expected, (8, 12), mode="bilinear")
    torch.testing.assert_close(found, features + larger, rtol=1e-4, atol=1e-4)
    # Where there is no edge at all every pixel gives and gets the same.
    same = attend(features, torch.zeros_like(edges)) - features
    torch.testing.assert_close(same, attend.value.bias[None, :, None, None].expand_as(same))


def test_a_network_with_attention_from_pixel_to_pixel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SAMFeat(edge_attention="pixels")
    maps = model(torch.rand(1, 3, 64, 80) * 2 - 1)
    maps.descriptors.square().mean().backward()
    attention = model.edge_attention
    assert attention is not None
    for part in ("query", "key", "value"):
        assert getattr(attention, part).weight.grad.abs().sum() > 0, part
    path = tmp_path / "weights.safetensors"
    checkpoints.write_checkpoint(path, model.state_dict(), model.config, {})
    read = SAMFeat.from_pretrained(path, device="cpu")
    assert isinstance(read.edge_attention, PixelAttention)
    photo = np.random.default_rng(0).integers(0, 255, (90, 117, 3), dtype=np.uint8)
    found = read.extract(photo, max_keypoints=50)
    assert found["keypoints"].shape == (50, 2) and found["descriptors"].shape == (128, 50)
    # The same parameters, read as the release's rows, describe otherwise.
    checkpoints.write_checkpoint(path, model.state_dict(), {"edge_attention": True}, {})
    rows = SAMFeat.from_pretrained(path, device="cpu").extract(photo, max_keypoints=50)
    assert not torch.equal(rows["descriptors"], found["descriptors"])


def test_names_of_edge_attention() -> None:
    for name, older in (("none", False), ("rows", True)):
        assert SAMFeat(edge_attention=name).config == SAMFeat(edge_attention=older).config
    with pytest.raises(SamfeatError, match="'owl' is not known; give none, rows, pixels"):
        SAMFeat(edge_attention="owl")


@pytest.mark.parametrize("edge_attention", [True, False, "pixels"])
def test_descriptors_at_keypoints_are_samples_of_the_dense_map(edge_attention: bool | str) -> None:
    torch.manual_seed(0)
    model = SAMFeat(edge_attention=edge_attention).eval()
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    # Beyond the outermost features' centres as well: to the corners of the image.
    keypoints = torch.rand(700, 2) * torch.tensor([95.0, 63.0])
    keypoints[:3] = torch.tensor([[0.0, 0.0], [95.0, 63.0], [95.0, 0.3]])
    with torch.inference_mode():
        encoded = model.encode(images)
        dense = model.describe(encoded.features)
        for features, maps in zip(encoded.features, dense, strict=True):
            expected = sample(maps[None], keypoints[None], 96, 64)[0]
            found = model.describe_at(features, keypoints)
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert model.describe_at(encoded.features[0], keypoints[:0]).shape == (0, 128)


@pytest.mark.parametrize("edge_attention", ["rows", "pixels"])
def test_inference_takes_other_roads_to_the_same_maps(edge_attention: str) -> None:
    model = SAMFeat(edge_attention=edge_attention).eval().requires_grad_(False)
    image = torch.rand(1, 3, 72, 88) * 2 - 1
    expected = model(image)  # with gradients on: as in training
    with torch.inference_mode():
        found = model(image)
    for name, value in expected._asdict().items():
        assert (getattr(found, name) - value).abs().max() < 1e-4 * value.abs().max(), name


def test_half_precision_moves_keypoints_by_hundredths_of_a_pixel(shared: Path) -> None:
    photo = np.array(Image.open(sorted((shared / "data" / "pairs").glob("v_*/1.*"))[0]))
    model = SAMFeat.from_pretrained(device="cpu")
    if not levels.fast_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16")
    half = model.extract(photo, max_keypoints=1000)["keypoints"]
    full = model.extract(photo, max_keypoints=1000, precision="float32")["keypoints"]
    nearest = torch.cdist(half, full).amin(dim=1)
    assert (nearest < 0.5).float().mean() > 0.97
    assert nearest.median() < 0.01


def test_a_grown_context_begins_as_nothing_and_counts_once_trained(tmp_path: Path) -> None:
    plain, grown = SAMFeat().eval(), SAMFeat(context=True).eval()
    grown.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(1, 3, 72, 88) * 2 - 1  # c4 has an odd height and width
    with torch.inference_mode():
        for expected, found in zip(plain(image), grown(image), strict=True):
            assert torch.equal(expected, found)
        torch.nn.init.normal_(grown.context.give.weight, std=0.1)  # type: ignore[union-attr]
        assert not torch.allclose(plain(image).descriptors, grown(image).descriptors)
    path = tmp_path / "weights.safetensors"
    checkpoints.write_checkpoint(path, grown.state_dict(), grown.config, {})
    read = SAMFeat.from_pretrained(path)
    assert read.context is not None and read.edge_attention is not None


def test_shipped_weights_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "weights" / "samfeat.safetensors")
    monkeypatch.chdir(tmp_path)
    named = SAMFeat(edge_attention="pixels")
    path = tmp_path / "weights" / "samfeat_paper.safetensors"
    checkpoints.write_checkpoint(path, named.state_dict(), named.config, {"teacher": "people"})
    for name in ("paper", Path("paper"), path):
        assert SAMFeat.from_pretrained(name, device="cpu").metadata["teacher"] == "people"
    with pytest.raises(SamfeatError, match=r"owl: no such file, .*\(but paper\)"):
        SAMFeat.from_pretrained("owl")
    Path("paper").write_bytes(b"a user's own file comes first")
    with pytest.raises(SamfeatError, match="is not a checkpoint"):
        SAMFeat.from_pretrained("paper")


def test_damaged_and_foreign_checkpoints(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole = tmp_path / "whole.safetensors"
    checkpoints.write_checkpoint(whole, SAMFeat().state_dict(), {"edge_attention": True}, {})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-1000])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(3)}, foreign)
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    partial = tmp_path / "partial.safetensors"
    checkpoints.write_checkpoint(partial, {"edge.bias": torch.zeros(1)}, {}, {})
    absurd = {name: value * torch.nan for name, value in SAMFeat().state_dict().items()}
    nan = tmp_path / "nan.safetensors"
    checkpoints.write_checkpoint(nan, absurd, {}, {})
    unreadable = {tmp_path / "absent.safetensors": "cannot be read", tmp_path: "cannot be read"}
    damaged = {
        cut: "cut off",
        text: "not a checkpoint",
        nan: "NaN",
        partial: "lacks",
        foreign: "format",
    }
    cases = unreadable | damaged
    for path, reason in cases.items():
        with refused(path, reason):
            SAMFeat.from_pretrained(path)


def test_the_shipped_checkpoint_says_where_it_comes_from() -> None:
    model = SAMFeat.from_pretrained()
    assert {"data", "licence", "teacher", "steps", "date"} <= set(model.metadata)
    assert checkpoints.SHIPPED.stat().st_size < 8e6


def test_inference_is_what_training_computes() -> None:
    model = SAMFeat.from_pretrained().requires_grad_(True)
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for half, tolerance in ((False, 1e-5), (True, 0.02)):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            trained = model.encode(image)
            with torch.inference_mode():
                inferred = model.encode(image)
        for name, ours, theirs in zip(trained._fields, inferred, trained, strict=True):
            assert ours.dtype == theirs.dtype, name
            theirs = theirs.detach().float()
            spread, difference = theirs.std(), (ours.float() - theirs).square().mean().sqrt()
            assert difference < tolerance * spread, (name, half)


@pytest.mark.parametrize("half", [True, False])
def test_levels_in_strips_are_the_whole_levels(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model = SAMFeat(edge_attention=False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(2, 3, 112, 80) * 2 - 1
    with torch.inference_mode(), levels.half_precision(images.device, wanted=half):
        whole = model.encode(images)
        computed = []
        of_rows = strips._strip
        monkeypatch.setattr(strips, "_strip", lambda *a: computed.append(a[-2:]) or of_rows(*a))
        monkeypatch.setattr(strips, "_BYTES", 2 * 24 * 80 * 64 * (2 if half else 4))
        in_strips = model.encode(images)
    if not half or levels.fast_bfloat16(images.device):
        assert computed == [(0, 24), (24, 48), (48, 72), (72, 96), (96, 112), (0, 48), (48, 56)]
    for one, other in zip(whole, in_strips, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
