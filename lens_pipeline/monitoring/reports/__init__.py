"""The report of a day: its statistics, a chart, and its copies in the store."""
