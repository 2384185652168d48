"""Quabos: what is said to them and by them, and the links it goes over."""
