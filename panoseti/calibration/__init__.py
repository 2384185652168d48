"""Thresholds, pixel masks and pulse-height baselines."""
