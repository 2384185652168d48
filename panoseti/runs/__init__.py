"""Runs: started, watched, ended, collected, judged."""
