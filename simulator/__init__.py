"""The simulated observatory: quabos that answer, boot, misbehave and send science data."""
