"""Processes and devices: who they are, how they start, talk and end."""
