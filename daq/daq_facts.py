"""Facts that the head node and the helpers on a DAQ node share.

Copied to the nodes as it is: Python >= 3.8, standard library alone.
"""

from __future__ import annotations

import re

RUN_NAME = re.compile(
    r"obs_(?P<obs>[A-Za-z0-9][A-Za-z0-9_-]*)"
    r"\.start_(?P<start>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)"
    r"\.runtype_(?P<run_type>[A-Za-z0-9][A-Za-z0-9-]*)"
    r"\.pffd"
)
"""The whole name of a run and of its directory; to be used with fullmatch."""

# The name travels through a HASHPIPE status value, which keeps no more.
RUN_NAME_MAX_LENGTH = 67


def check_run_name(text: str) -> str:
    """The text itself if it is the name of a run, else ValueError.

    Paths that are deleted are made of it, so nothing but the full pattern passes.
    """
    if not RUN_NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is not the name of a run (obs_<name>.start_<UTC>Z.runtype_<type>.pffd)"
        )
    if len(text) > RUN_NAME_MAX_LENGTH:
        raise ValueError(
            f"run name {text!r} has {len(text)} characters; more than {RUN_NAME_MAX_LENGTH}"
            " do not reach the pipeline: shorten the observatory's name or run_type"
        )
    return text
