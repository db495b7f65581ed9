"""mosaicmem: spatial memory for video world models."""
