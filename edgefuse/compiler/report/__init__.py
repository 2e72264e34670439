"""What a compile found, as `report.json` and as a page."""
