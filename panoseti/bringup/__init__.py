"""From power-on to ready: the ledger of what was done, and every step."""
