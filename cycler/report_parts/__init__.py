"""What a report is drawn with: its look, its figures, its maps and its tables."""
