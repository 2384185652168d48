"""The pipeline measured against the limits of the machine it runs on."""
