"""Camera paths of other tools: read them, write them, recognise them, and be told what is wrong with them."""

from mosaicmem.io.trajectories.detection import Candidate as Candidate
from mosaicmem.io.trajectories.detection import detect as detect
from mosaicmem.io.trajectories.findings import Finding as Finding
from mosaicmem.io.trajectories.lint import lint as lint
from mosaicmem.io.trajectories.registry import FORMATS as FORMATS
from mosaicmem.io.trajectories.registry import read_trajectory as read_trajectory
from mosaicmem.io.trajectories.registry import write_trajectory as write_trajectory
from mosaicmem.io.trajectories.trajectory import Trajectory as Trajectory
