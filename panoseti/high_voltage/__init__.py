"""High voltage and temperature: set, watched, switched off, told."""
