"""Checks between the configs: what no file can be judged for alone.  Pure: names come resolved."""
