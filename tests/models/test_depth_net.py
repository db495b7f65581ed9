"""The depth network: focal length by law, sky without depth, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mosaicmem.depth.estimator import DepthEstimator
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.models.depth_net import DepthNet, DepthNetConfig, LearnedDepth

CONFIG = DepthNetConfig((8, 16, 48), 1)


def random_net(*, rays: bool = True) -> DepthNet:
    gen = torch.Generator().manual_seed(0)
    net = DepthNet(CONFIG).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=gen))
    if not rays:
        net.stem.weight[:, 48:] = 0  # colour only
    return net


def camera(n: int = 1, width: int = 48, height: int = 32, focal: float = 40.0, shift: float = 0.0) -> Cameras:
    K = torch.tensor([[focal, 0, width / 2 + shift], [0, focal, height / 2], [0, 0, 1]])
    return Cameras(torch.eye(4).repeat(n, 1, 1), K.repeat(n, 1, 1), width, height)


def frames(gen: torch.Generator, n: int = 1) -> Tensor:
    return torch.rand(n, 3, 32, 48, generator=gen) * 2 - 1


def test_the_same_picture_through_a_longer_lens_is_farther(rng):
    net, seen = random_net(rays=False), frames(rng)
    near, far = net(seen, camera(focal=40.0)), net(seen, camera(focal=100.0))
    torch.testing.assert_close((far[0] - near[0]).exp(), torch.full((1, 32, 48), 2.5), rtol=1e-5, atol=0)
    assert torch.equal(far[1], near[1]) and torch.equal(far[2], near[2])
    # control: a network that sees rays knows more of the lens than that
    with_rays = random_net()
    ratio = (with_rays(seen, camera(focal=100.0))[0] - with_rays(seen, camera(focal=40.0))[0]).exp()
    assert float((ratio - 2.5).abs().max()) > 1e-2


def test_before_training_every_pixel_is_at_e_image_heights(rng):
    depth = LearnedDepth(DepthNet(CONFIG), "fresh")
    bias = depth.network.head.bias
    assert bias is not None
    bias.copy_(torch.cat([torch.zeros(32), -torch.ones(16)]))
    estimate = depth.estimate(frames(rng), camera(focal=64.0))
    torch.testing.assert_close(estimate.depth, torch.full((1, 32, 48), 2 * torch.e), rtol=1e-5, atol=0)


def test_where_a_ray_points_matters(rng):
    net, seen = random_net(), frames(rng)
    assert float((net(seen, camera(shift=10.0))[0] - net(seen, camera())[0]).abs().max()) > 1e-2


def test_sky_has_no_depth_and_no_confidence(rng):
    network, seen = random_net(), frames(rng, 2)
    log_depth, log_spread, sky = network(seen, camera(2))
    estimator = LearnedDepth(network, "some")
    assert isinstance(estimator, DepthEstimator)
    estimate = estimator.estimate(seen, camera(2))
    known = sky < 0
    assert 0.05 < float(known.float().mean()) < 0.95
    assert torch.equal(estimate.depth > 0, known) and torch.equal(estimate.confidence > 0, known)
    assert torch.equal(estimate.depth[known], log_depth[known].exp())
    order = log_spread[known].argsort()
    assert bool((estimate.confidence[known][order].diff() <= 0).all()), "the wider the spread, the less sure"
    assert (estimate.info.model, estimate.info.metric, estimate.info.scale_source) == ("some", True, "model")
    assert network.head.bias is not None
    network.head.bias[32:] = 100.0
    nothing = estimator.estimate(seen, camera(2))
    assert not nothing.depth.any() and not nothing.confidence.any()


def test_frames_do_not_meet(rng):
    network, seen = random_net(), frames(rng, 3)
    cameras = Cameras.cat([camera(focal=f) for f in (30.0, 40.0, 60.0)])
    together = network(seen, cameras)
    for i in range(3):
        for a, b in zip(together, network(seen[i : i + 1], cameras[i])):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-4, atol=1e-4)


def test_every_weight_learns(rng):
    network = random_net().requires_grad_(True)
    sum(out.square().mean() for out in network(frames(rng, 2), camera(2))).backward()  # pyright: ignore
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_what_does_not_fit_is_refused(rng):
    depth = LearnedDepth(random_net(), "some")
    with pytest.raises(GeometryError, match="56x32 pixels; the depth network needs multiples of 16"):
        depth.estimate(torch.zeros(1, 3, 32, 56), camera(width=56))
    with pytest.raises(GeometryError, match="1 frames of 48x32 pixels with 2 cameras"):
        depth.estimate(frames(rng), camera(2))
    with pytest.raises(GeometryError, match="one camera per frame, of its size"):
        depth.estimate(frames(rng), camera(width=64))


def test_sizes_survive_their_json():
    config = replace(CONFIG, attention=3)
    assert DepthNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
