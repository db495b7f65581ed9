"""A walk that is driven while one watches: commands in, frames and memory out, a world file that is always current."""

from mosaicmem.live.recording import Recording as Recording
from mosaicmem.live.session import Session as Session
from mosaicmem.live.walk import Outcome as Outcome
from mosaicmem.live.walk import Walk as Walk
