"""Depth of frames: the protocol, back ends, and alignment to the scale that memory already has."""

from mosaicmem.depth.adapters import DepthAnything3Depth as DepthAnything3Depth
from mosaicmem.depth.adapters import TransformersDepth as TransformersDepth
from mosaicmem.depth.alignment import AlignmentConfig as AlignmentConfig
from mosaicmem.depth.alignment import ScaleAlignment as ScaleAlignment
from mosaicmem.depth.alignment import align_scale as align_scale
from mosaicmem.depth.estimator import BowlDepth as BowlDepth
from mosaicmem.depth.estimator import DepthEstimate as DepthEstimate
from mosaicmem.depth.estimator import DepthEstimator as DepthEstimator
from mosaicmem.depth.estimator import DepthInfo as DepthInfo
from mosaicmem.depth.estimator import ExactDepth as ExactDepth
from mosaicmem.depth.estimator import SensorDepth as SensorDepth
from mosaicmem.depth.estimator import bowl_depth as bowl_depth
