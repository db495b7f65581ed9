"""The terminal interface: a viewer and driver of a live session. Needs the extra `tui`."""
