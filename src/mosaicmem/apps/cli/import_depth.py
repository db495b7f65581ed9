"""Depth of pictures that came without any, by the network that comes with the package."""

from __future__ import annotations

from mosaicmem._shapes import Float, Tensor
from mosaicmem.depth.alignment import AlignmentConfig, align_scale
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.imports import Scan
from mosaicmem.models.depth_net import LearnedDepth


class EstimatedDepth:
    """A scan whose depth the shipped network estimates, at the scale of the points that each picture sees.

    The scale of a picture that sees too few points is that of the one before.
    """

    def __init__(self, scan: Scan, network: LearnedDepth) -> None:
        self.scan, self.network = scan.using("none", 1), network
        self._scale: float | None = None

    @property
    def cameras(self) -> Cameras:
        """The scan's."""
        return self.scan.cameras

    @property
    def timestamps(self) -> Float[Tensor, " n"]:
        """The scan's."""
        return self.scan.timestamps

    def __len__(self) -> int:
        return len(self.scan)

    def read(self, index: int, width: int, height: int, /) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "H W"]]:
        """Colour as it is, depth as the network has it."""
        rgb, _ = self.scan.read(index, width, height)
        camera = self.cameras[index].resized(width, height)
        estimate = self.network.estimate(rgb[None], camera)
        sparse = self.scan.read_sparse(index, width, height)
        config = AlignmentConfig(confidence_quantile=0.0, min_share=0.0)
        aligned = align_scale(estimate.depth[0], sparse, previous=self._scale, relative=True, config=config)
        if aligned.source != "carried":
            self._scale = aligned.scale
        return rgb, aligned.apply(estimate.depth[0])
