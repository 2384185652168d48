"""What the configs of a site say: JSON files read, checked, as typed objects."""
