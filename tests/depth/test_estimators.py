"""Depth back ends: exact, sensor, the golden bowl, and adapters against fakes of the documented calls."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mosaicmem.depth import (
    BowlDepth,
    DepthAnything3Depth,
    DepthEstimator,
    ExactDepth,
    SensorDepth,
    TransformersDepth,
    bowl_depth,
)
from mosaicmem.errors import GeometryError, MissingExtraError
from mosaicmem.worlds import make_scene

SCENE = make_scene(0)
CAMERAS = SCENE.walk(0, 4, width=20, height=14)
SEEN = SCENE.render(CAMERAS)


class FakePipeline:
    """Stands for a transformers pipeline: PIL images in, a dict for each out, at another size."""

    def __init__(self, maps):
        self.maps, self.pictures = maps, []

    def __call__(self, images):
        self.pictures = [np.asarray(image) for image in images]
        return [{"predicted_depth": m, "depth": None} for m in self.maps]


class FakeDA3:
    """Stands for Depth Anything 3; fails on poses of one or two views, as the real one does."""

    def __init__(self, depth, conf=None):
        self.depth, self.conf, self.call = depth, conf, {}

    def inference(self, images, extrinsics=None, intrinsics=None, process_res=504):
        if extrinsics is not None and len(extrinsics) < 3:
            raise ValueError("degenerate alignment")
        self.call = {"images": images, "extrinsics": extrinsics, "intrinsics": intrinsics, "process_res": process_res}
        return SimpleNamespace(depth=self.depth, conf=self.conf)


def test_exact_depth_is_that_of_the_scene():
    found = ExactDepth(SCENE).estimate(SEEN.rgb, CAMERAS)
    assert torch.equal(found.depth, SEEN.depth) and torch.equal(found.confidence > 0, SEEN.depth > 0)
    later = ExactDepth(SCENE, time=0.3).estimate(SEEN.rgb, CAMERAS)
    assert torch.equal(later.depth, SCENE.render(CAMERAS, 0.3).depth)
    assert found.info.metric is True and isinstance(ExactDepth(SCENE), DepthEstimator)


def test_sensor_depth_keeps_what_is_known():
    maps = SEEN.depth.clone()
    maps[0, 0, :4] = torch.tensor([-1.0, float("nan"), float("inf"), 2.0])
    found = SensorDepth(maps).estimate(SEEN.rgb, CAMERAS)
    assert found.depth[0, 0, :4].tolist() == [0, 0, 0, 2] == (found.confidence[0, 0, :4] * 2).tolist()
    assert torch.equal(found.depth[1:], maps[1:])
    with pytest.raises(GeometryError, match="one map per frame"):
        SensorDepth(maps[:2]).estimate(SEEN.rgb, CAMERAS)


def test_the_bowl_has_its_golden_depths():
    bowl = bowl_depth(dtype=torch.float64)
    at = torch.tensor([8.0, 24, 40, 56])
    u, v = torch.meshgrid(at, at, indexing="xy")
    closed = 5 + torch.hypot((u - 32) / 64, (v - 32) / 64)
    values, counts = closed.flatten().round(decimals=6).unique(return_counts=True)
    assert values.tolist() == pytest.approx([5.176777, 5.395285, 5.530330]) and counts.tolist() == [4, 8, 4]
    # the tile centre lies between four pixels, whose mean is the centre's depth to second order
    corners = sum(bowl[24 + i, 40 + j] for i in (-1, 0) for j in (-1, 0)) / 4
    assert float(corners) == pytest.approx(5.176777, abs=2e-4)
    estimate = BowlDepth().estimate(torch.zeros(4, 3, 14, 20), CAMERAS)
    assert estimate.depth.shape == (4, 14, 20) and torch.equal(estimate.depth[0], bowl_depth(20, 14))


def test_frames_and_cameras_must_fit():
    for estimator in (ExactDepth(SCENE), BowlDepth(), SensorDepth(SEEN.depth)):
        with pytest.raises(GeometryError, match="3 frames of 20x14 pixels with 4 cameras of 20x14"):
            estimator.estimate(SEEN.rgb[:3], CAMERAS)


def test_a_metric_pipeline_is_taken_as_it_is_at_the_nearest_element():
    maps = torch.arange(1.0, 4 * 7 * 10 + 1).view(4, 7, 10)
    pipeline = FakePipeline([m[None] for m in maps])
    found = TransformersDepth(pipeline, "metric").estimate(SEEN.rgb, CAMERAS)
    assert torch.equal(found.depth, maps.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert found.info.metric is True
    expected = ((SEEN.rgb[0] + 1) * 127.5).round().permute(1, 2, 0).byte()
    assert np.array_equal(pipeline.pictures[0], expected.numpy())


def test_an_inverse_pipeline_is_inverted_and_never_called_metric():
    truth = SEEN.depth.clamp(min=0.5)
    inverse = 37.0 / truth
    inverse[0, 0, 0] = 0
    found = TransformersDepth(FakePipeline(list(inverse)), "inverse").estimate(SEEN.rgb, CAMERAS)
    assert found.depth[0, 0, 0] == 0 == found.confidence[0, 0, 0] and found.info.metric is False
    ratio = (found.depth / truth)[1]
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-5)
    assert float(found.depth[1].median()) == pytest.approx(1)


def test_a_pipeline_that_answers_wrongly_is_refused():
    with pytest.raises(GeometryError, match="returned 1 depth maps for 4 frames"):
        TransformersDepth(FakePipeline([torch.ones(3, 3)]), "metric").estimate(SEEN.rgb, CAMERAS)
    with pytest.raises(GeometryError, match=r"shape \[2, 3, 3\]"):
        TransformersDepth(FakePipeline([torch.ones(2, 3, 3)] * 4), "metric").estimate(SEEN.rgb, CAMERAS)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="transformers"):
        TransformersDepth.from_pretrained("some-model", "metric")


def test_depth_anything_gets_poses_only_where_it_can_use_them():
    model = FakeDA3(np.ones((4, 7, 10), dtype=np.float32), np.full((4, 7, 10), 3.0, dtype=np.float32))
    found = DepthAnything3Depth(model).estimate(SEEN.rgb, CAMERAS)
    assert np.allclose(model.call["extrinsics"], CAMERAS.viewmats) and model.call["process_res"] == 504
    assert found.info.metric is None and found.info.scale_source == "poses" and bool((found.confidence == 3).all())
    pair = FakeDA3(np.full((2, 7, 10), 8.0, dtype=np.float32))
    found = DepthAnything3Depth(pair).estimate(SEEN.rgb[:2], CAMERAS[:2])
    assert pair.call["extrinsics"] is None and found.info.scale_source == "median" and float(found.depth.max()) == 1


def test_depth_anything_metric_multiplies_by_the_processed_focal_length():
    model = FakeDA3(np.full((4, 7, 10), 30.0, dtype=np.float32))
    found = DepthAnything3Depth(model, "metric").estimate(SEEN.rgb, CAMERAS)
    processed = float(CAMERAS.Ks[0, 0, 0]) / 2  # processed at half the size
    assert torch.allclose(found.depth, torch.tensor(30.0 * processed / 300)) and found.info.metric is True
    assert torch.equal(
        DepthAnything3Depth(model, "metres").estimate(SEEN.rgb, CAMERAS).depth, torch.full((4, 14, 20), 30.0)
    )
