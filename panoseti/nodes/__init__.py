"""DAQ nodes: ssh, the helpers there, and what they report."""
