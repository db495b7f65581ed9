"""A world in the files of other tools: point clouds, COLMAP, nerfstudio and ViPE folders, rerun recordings."""

from mosaicmem.io.exports.colmap import export_colmap as export_colmap
from mosaicmem.io.exports.nerfstudio import export_nerfstudio as export_nerfstudio
from mosaicmem.io.exports.ply import export_ply as export_ply
from mosaicmem.io.exports.rrd import export_rrd as export_rrd
from mosaicmem.io.exports.shots import Exported as Exported
from mosaicmem.io.exports.shots import ExportOptions as ExportOptions
from mosaicmem.io.exports.vipe import export_vipe as export_vipe
