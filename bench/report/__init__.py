"""Results of the suite for people: one HTML page that needs no network, pictures and Markdown tables beside it."""
