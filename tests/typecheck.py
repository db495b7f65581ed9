"""The run-time checker behind every test run: beartype, with Python's rule that an int will do for a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
