"""The report: one HTML page of everything that the records of some studies tell."""
