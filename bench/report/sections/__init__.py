"""The sections of a report, one a file: from a result of the suite to text, charts and tables."""
