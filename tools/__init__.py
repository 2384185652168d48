"""Tools beside the operator's scripts; they may need more packages (requirements-tools.txt)."""
