"""Results of the suite and of compare for people: one HTML page that needs no network, pictures, Markdown tables."""
