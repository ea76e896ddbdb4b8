"""What all HTML pages share: their head, their style, and how a template becomes a page."""
